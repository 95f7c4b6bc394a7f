"""Other implementations of attention, on dense keys and values or on pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from .attention_inputs import BLOCK_SIZE, AttentionCase, DenseInputs, PagedInputs
from .timing import Call

BACKENDS = {"sdpa flash": SDPBackend.FLASH_ATTENTION, "sdpa cudnn": SDPBackend.CUDNN_ATTENTION}


def sdpa(case: AttentionCase, inputs: DenseInputs, arm: str) -> list[Call]:
    """torch's own, by the backend that the arm names, queries grouped by their key head."""
    if case.new == 1:  # the heads of a group as rows of one matrix: no key is read twice
        attend = partial(_decode, inputs.query, case.shape.num_kv_heads)
    else:
        attend = partial(_prefill, inputs.query, case.new == case.length)
    return [
        partial(_by_backend, arm, attend, key, value)
        for key, value in zip(inputs.keys, inputs.values, strict=True)
    ]


def _by_backend(
    arm: str, attend: Callable[[Tensor, Tensor], Tensor], key: Tensor, value: Tensor
) -> Tensor:
    chosen: AbstractContextManager[None] = nullcontext()
    if key.device.type == "cuda":
        chosen = sdpa_kernel(BACKENDS[arm])
    with chosen:
        return attend(key, value)


def _decode(query: Tensor, kv_heads: int, key: Tensor, value: Tensor) -> Tensor:
    grouped = query.view(query.shape[0], kv_heads, -1, query.shape[3])
    return scaled_dot_product_attention(grouped, key, value).view(query.shape)


def _prefill(query: Tensor, whole: bool, key: Tensor, value: Tensor) -> Tensor:
    if whole:
        return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    from torch.nn.attention.bias import causal_lower_right  # takes seconds to import

    bias = causal_lower_right(query.shape[2], key.shape[2])
    return scaled_dot_product_attention(query, key, value, attn_mask=bias, enable_gqa=True)


def has_flashinfer() -> bool:
    return find_spec("flashinfer") is not None


def flashinfer(case: AttentionCase, inputs: PagedInputs) -> Sequence[Call]:
    """FlashInfer's decode over the same pages; planning is not timed, nor writing the new token."""
    library = import_module("flashinfer")
    pages = inputs.tables.shape[2]
    indptr = torch.arange(case.batch + 1, dtype=torch.int32) * pages
    last = torch.full((case.batch,), (case.length - 1) % BLOCK_SIZE + 1, dtype=torch.int32)
    pool = (inputs.key_cache, inputs.value_cache)
    calls = []
    for table in inputs.tables:
        workspace = torch.empty(128 * 2**20, dtype=torch.uint8, device=table.device)
        wrapper = library.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD")
        wrapper.plan(
            indptr.to(table.device),
            table.flatten(),
            last.to(table.device),
            case.shape.num_heads,
            case.shape.num_kv_heads,
            case.shape.head_dim,
            BLOCK_SIZE,
            q_data_type=inputs.query.dtype,
            kv_data_type=inputs.key_cache.dtype,
        )
        calls.append(partial(wrapper.run, inputs.query, pool))
    return calls
