"""Paged attention written as its definition: the oracle of every other implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from .metadata import AttentionMetadata


def reference_paged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    metadata: AttentionMetadata,
    *,
    scale: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attend one token at a time, in the precision of ``query`` (float64 gives the oracle).

    Arguments and result as :func:`~gistserve.kernels.attention.paged_attention`; slow by design.
    """
    block_size = key_cache.shape[1]
    for row, slot in enumerate(metadata.slot_mapping.tolist()):
        key_cache[slot // block_size, slot % block_size] = key[row]
        value_cache[slot // block_size, slot % block_size] = value[row]
    starts = metadata.query_start_loc.tolist()
    out = query.new_empty(*query.shape[:2], value.shape[2])
    for seq, seq_len in enumerate(metadata.seq_lens.tolist()):
        first_slot = seq_len - (starts[seq + 1] - starts[seq])
        for row in range(starts[seq], starts[seq + 1]):
            last = first_slot + row - starts[seq]
            first = 0 if sliding_window is None else max(0, last - sliding_window + 1)
            slots = torch.arange(first, last + 1, device=query.device)
            pages = metadata.block_table[seq][slots // block_size].long()
            keys = key_cache[pages, slots % block_size]
            values = value_cache[pages, slots % block_size]
            out[row] = _attend(query[row], keys, values, scale, softcap, sinks)
    return out


def _attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """One query ``[Hq, D]`` over ``keys [L, Hkv, D]`` and ``values [L, Hkv, Dv]``."""
    group = query.shape[0] // keys.shape[1]
    keys = keys.repeat_interleave(group, dim=1)
    values = values.repeat_interleave(group, dim=1)
    scores = torch.einsum("hd,lhd->hl", query, keys) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores.dtype)[:, None]], dim=1)
    weights = scores.softmax(dim=1)[:, : keys.shape[0]]
    return torch.einsum("hl,lhd->hd", weights, values)
