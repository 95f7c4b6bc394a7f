"""The Triton kernel that puts new keys and values into their slots."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize_on_alignment=["slot_mapping_ptr"])
def write_kernel(
    key_ptr,
    value_ptr,
    key_cache_ptr,
    value_cache_ptr,
    slot_mapping_ptr,
    key_token_stride,
    key_head_stride,
    value_token_stride,
    value_head_stride,
    KV_HEADS: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
):
    """One token's keys (second program id 0) or values (1), of all heads."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_mapping_ptr + token)
    if slot < 0:
        return
    if tl.program_id(1) == 0:
        copy_heads(
            key_ptr + token * key_token_stride,
            key_cache_ptr + slot * (KV_HEADS * KEY_DIM),
            key_head_stride,
            KV_HEADS,
            KEY_DIM,
            KEY_BLOCK,
        )
    else:
        copy_heads(
            value_ptr + token * value_token_stride,
            value_cache_ptr + slot * (KV_HEADS * VALUE_DIM),
            value_head_stride,
            KV_HEADS,
            VALUE_DIM,
            VALUE_BLOCK,
        )


@triton.jit
def copy_heads(
    source_ptr,
    target_ptr,
    head_stride,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    elements = tl.arange(0, BLOCK)
    stored = elements < KV_HEADS * DIM
    states = tl.load(source_ptr + elements // DIM * head_stride + elements % DIM, mask=stored)
    tl.store(target_ptr + elements, states, mask=stored)
