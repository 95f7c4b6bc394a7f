"""Refuses what no implementation of paged attention could compute."""

from __future__ import annotations

import torch
from torch import Tensor

from .metadata import AttentionMetadata
from .options import AttentionOptions

_TRITON_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_TRITON_HEAD_DIM = 256


def check_inputs(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    metadata: AttentionMetadata,
    options: AttentionOptions,
) -> None:
    """Compare shapes, dtypes and devices, without waiting for a device.

    Raises:
        ValueError: naming what does not fit.
    """
    tokens, num_heads, key_dim = query.shape
    blocks, block_size, kv_heads, value_dim = value_cache.shape
    if (
        key.shape != (tokens, kv_heads, key_dim)
        or value.shape != (tokens, kv_heads, value_dim)
        or key_cache.shape != (blocks, block_size, kv_heads, key_dim)
        or num_heads % kv_heads
    ):
        found = _describe("shape", query, key, value, key_cache, value_cache)
        raise ValueError(
            "query [T, Hq, D], key [T, Hkv, D], value [T, Hkv, Dv], key_cache [blocks, block_size, "
            "Hkv, D] and value_cache [blocks, block_size, Hkv, Dv], with Hq a multiple of Hkv, do "
            f"not fit each other: {found}"
        )
    dtype, device = query.dtype, query.device
    for state in (key, value, key_cache, value_cache):
        if state.dtype is not dtype or state.device != device:
            raise ValueError(
                "query, key, value, key_cache and value_cache must share dtype and device: "
                f"{_describe('dtype', query, key, value, key_cache, value_cache)}; "
                f"{_describe('device', query, key, value, key_cache, value_cache)}"
            )
    if not (key_cache.is_contiguous() and value_cache.is_contiguous()):
        raise ValueError("key_cache and value_cache must be contiguous")
    slots = metadata.slot_mapping.shape[0]
    if slots != tokens:
        raise ValueError(f"{tokens} tokens, but slot_mapping has {slots}")
    _check_options(options, num_heads)
    if query.is_cuda:
        _check_for_triton(query, value_dim, metadata)


def _check_options(options: AttentionOptions, num_heads: int) -> None:
    if options.sliding_window is not None and options.sliding_window < 1:
        raise ValueError(f"sliding_window must be at least 1 or None, got {options.sliding_window}")
    if options.softcap is not None and not options.softcap > 0:
        raise ValueError(f"softcap must be positive or None, got {options.softcap}")
    if not options.scale > 0:
        raise ValueError(f"scale must be positive, got {options.scale}")
    if options.sinks is not None and options.sinks.shape != (num_heads,):
        raise ValueError(
            f"sinks must be [{num_heads}], one a query head, and is {list(options.sinks.shape)}"
        )


def _check_for_triton(query: Tensor, value_dim: int, metadata: AttentionMetadata) -> None:
    if query.dtype not in _TRITON_DTYPES:
        raise ValueError(f"on CUDA attention takes bfloat16, float16 or float32, got {query.dtype}")
    if max(query.shape[2], value_dim) > _TRITON_HEAD_DIM:
        raise ValueError(
            f"on CUDA heads have at most {_TRITON_HEAD_DIM} elements, got {query.shape[2]} "
            f"(keys) and {value_dim} (values)"
        )
    arrays = (
        metadata.query_start_loc,
        metadata.seq_lens,
        metadata.block_table,
        metadata.slot_mapping,
    )
    if any(array.device != query.device for array in arrays):
        raise ValueError(f"metadata must be on {query.device}, as the query is")


def _describe(attribute: str, *tensors: Tensor) -> str:
    values = (getattr(tensor, attribute) for tensor in tensors)
    return ", ".join(str(list(v) if isinstance(v, torch.Size) else v) for v in values)
