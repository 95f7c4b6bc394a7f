"""Paged attention through Triton: what runs on CUDA."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
from torch import Tensor

from .metadata import AttentionMetadata
from .options import AttentionOptions
from .tiles import (
    Heads,
    Target,
    decode_splits,
    decode_tiles,
    padded,
    prefill_splits,
    prefill_tiles,
)
from .triton_attention import attention_kernel
from .triton_merge import merge_kernel
from .triton_write import write_kernel

# Partial results that the merging kernel holds at a time.
_MERGED_SPLITS = 16


def triton_paged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    metadata: AttentionMetadata,
    options: AttentionOptions,
    target: Target | None = None,
) -> Tensor:
    """Triton's :func:`~gistserve.kernels.attention.paged_attention`; same tensors.

    What is launched depends on shapes, ``max_query_len`` and ``max_seq_len`` alone (both may be
    upper bounds), never on what tensors hold: nothing waits for the device, and a CUDA graph may
    be replayed with other contents. Beyond the operator's contract a token of negative slot is not
    written, a sequence may have no new token, and one of no slots gives zeros.

    Args:
        target: the device to choose for; that of ``query`` by default.
    """
    with torch.cuda.device_of(query):
        target = target or _target_of(query.device)
        write_pages(key, value, key_cache, value_cache, metadata.slot_mapping)
        out = query.new_empty(*query.shape[:2], value.shape[2])
        step = _Step(query, key_cache, value_cache, metadata, options, out, target)
        num_tokens, num_seqs = query.shape[0], metadata.seq_lens.shape[0]
        if metadata.max_query_len > 1:
            step.attend(one_query=False)
        # Sequences of one new token split their slots over many programs, also beside prompts.
        if metadata.max_query_len == 1 or num_tokens < num_seqs * metadata.max_query_len:
            step.attend(one_query=True)
    return out


def write_pages(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor
) -> None:
    """Put ``key [T, Hkv, D]`` and ``value [T, Hkv, Dv]`` into the slots of ``slot_mapping [T]``."""
    key, value = _inner_contiguous(key), _inner_contiguous(value)
    num_tokens, num_heads, key_dim = key.shape
    value_dim = value.shape[2]
    if num_tokens == 0:
        return
    write_kernel[(num_tokens, 2)](
        key,
        value,
        key_cache,
        value_cache,
        slot_mapping,
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        KV_HEADS=num_heads,
        KEY_DIM=key_dim,
        VALUE_DIM=value_dim,
        KEY_BLOCK=padded(num_heads * key_dim),
        VALUE_BLOCK=padded(num_heads * value_dim),
    )


@dataclass(slots=True)
class _Step:
    """One layer's attention in one step; keys and values are in their pages already."""

    query: Tensor
    key_cache: Tensor
    value_cache: Tensor
    metadata: AttentionMetadata
    options: AttentionOptions
    out: Tensor
    target: Target

    def attend(self, one_query: bool) -> None:
        """Launch the sequences of one new token, or those of more."""
        query, metadata, options = _inner_contiguous(self.query), self.metadata, self.options
        heads = _heads_of(query, self.key_cache, self.value_cache)
        num_seqs = metadata.seq_lens.shape[0]
        if one_query:
            tiles = decode_tiles(heads, self.target)
            block_q, blocks, units, splits_of = 1, num_seqs, num_seqs, decode_splits
        else:
            plain = options.sliding_window is None and options.softcap is None
            tiles = prefill_tiles(heads, self.target, plain=plain)
            block_q, units, splits_of = tiles.block_q(heads.group), len(query), prefill_splits
            blocks = units // block_q + num_seqs
        block_h = tiles.block_h(heads.group)
        head_blocks = heads.num_kv_heads * -(-heads.group // block_h)
        max_slots = metadata.max_seq_len
        if options.sliding_window is not None:
            max_slots = min(max_slots, options.sliding_window + block_q - 1)
        splits = splits_of(blocks * head_blocks, max_slots, tiles, self.target)
        num_heads = query.shape[1]
        parts = (units, num_heads, splits) if splits > 1 else (0, 0, 0)
        part = query.new_empty(*parts, heads.value_dim, dtype=torch.float32)
        part_lse = query.new_empty(parts, dtype=torch.float32)
        window = options.sliding_window or 0
        grid = (head_blocks, splits, blocks) if one_query else (blocks, head_blocks, splits)
        attention_kernel[grid](
            self.out,
            part,
            part_lse,
            query,
            self.key_cache,
            self.value_cache,
            options.sinks,
            metadata.query_start_loc,
            metadata.seq_lens,
            metadata.block_table,
            float(options.scale),
            options.softcap or 0.0,
            window,
            num_seqs,
            splits,
            query.stride(0),
            query.stride(1),
            metadata.block_table.stride(0),
            KV_HEADS=heads.num_kv_heads,
            GROUP=heads.group,
            KEY_DIM=heads.key_dim,
            VALUE_DIM=heads.value_dim,
            KEY_COLUMNS=heads.key_columns,
            VALUE_COLUMNS=heads.value_columns,
            PAGE_SIZE=self.key_cache.shape[1],
            BLOCK_M=tiles.block_m,
            BLOCK_N=tiles.block_n,
            BLOCK_H=block_h,
            BLOCK_Q=block_q,
            MIN_TILES=tiles.min_tiles,
            ONE_QUERY=one_query,
            HAS_WINDOW=options.sliding_window is not None,
            HAS_SOFTCAP=options.softcap is not None,
            HAS_SINKS=options.sinks is not None,
            UPCAST=triton.knobs.runtime.interpret,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )
        if splits == 1:
            return
        merge_kernel[(blocks, num_heads * block_q)](
            self.out,
            part,
            part_lse,
            metadata.query_start_loc,
            metadata.seq_lens,
            window,
            num_seqs,
            splits,
            HEADS=num_heads,
            VALUE_DIM=heads.value_dim,
            VALUE_COLUMNS=heads.value_columns,
            BLOCK_N=tiles.block_n,
            BLOCK_Q=block_q,
            MIN_TILES=tiles.min_tiles,
            SPLITS_BLOCK=_MERGED_SPLITS,
            ONE_QUERY=one_query,
            HAS_WINDOW=options.sliding_window is not None,
        )


def _heads_of(query: Tensor, key_cache: Tensor, value_cache: Tensor) -> Heads:
    num_kv_heads, key_dim = key_cache.shape[2:]
    group = query.shape[1] // num_kv_heads
    return Heads(num_kv_heads, group, key_dim, value_cache.shape[3], query.element_size())


def _inner_contiguous(states: Tensor) -> Tensor:
    return states if states.stride(2) == 1 else states.contiguous()


@cache
def _target_of(device: torch.device) -> Target:
    major, minor = torch.cuda.get_device_capability(device)
    properties = triton.runtime.driver.active.utils.get_device_properties(device.index)
    return Target(
        capability=10 * major + minor,
        num_multiprocessors=properties["multiprocessor_count"],
        shared_memory=properties["max_shared_mem"],
    )
