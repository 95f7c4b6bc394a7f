"""Paged attention in plain torch: what runs where there is no GPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .metadata import AttentionMetadata
from .options import AttentionOptions
from .plan import Segment


def write_pages(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor
) -> None:
    """Put ``key [T, Hkv, D]`` and ``value [T, Hkv, Dv]`` into the slots of ``slot_mapping [T]``."""
    key_cache.view(-1, *key_cache.shape[2:]).index_copy_(0, slot_mapping, key)
    value_cache.view(-1, *value_cache.shape[2:]).index_copy_(0, slot_mapping, value)


def torch_paged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    metadata: AttentionMetadata,
    options: AttentionOptions,
) -> Tensor:
    """Plain-torch :func:`~gistserve.kernels.attention.paged_attention`; same tensors."""
    write_pages(key, value, key_cache, value_cache, metadata.slot_mapping)
    dense_key = dense_value = None
    if metadata.dense is not None:
        dense_key, dense_value = metadata.dense.update(key, value, key_cache, value_cache)
    segments = metadata.plan(key_cache.shape[1], options.sliding_window).segments
    explicit = options.softcap is not None or options.sinks is not None
    parts = []
    for segment in segments:
        whole = len(segments) == 1 and isinstance(segment.rows, slice)
        queries = query if whole else query[segment.rows]
        keys = _read(segment, key, key_cache, dense_key)
        values = _read(segment, value, value_cache, dense_value)
        if explicit:
            part = _explicit(queries, keys, values, segment, options)
        elif segment.num_queries == 1:
            part = _decode(queries, keys, values, segment, options.scale)
        else:
            part = _prefill(queries, keys, values, segment, options.scale)
        parts.append(part if segment.kept is None else part.index_select(0, segment.kept))
    if len(parts) == 1:
        return parts[0]
    out = query.new_empty(*query.shape[:2], value.shape[2])
    for segment, part in zip(segments, parts, strict=True):
        out[segment.rows if segment.kept_rows is None else segment.kept_rows] = part
    return out


def _read(segment: Segment, new: Tensor, cache: Tensor, dense: Tensor | None) -> Tensor:
    """Keys or values that a segment attends to, ``[n, Hkv, length, D]``: a view of the new tokens,
    of dense memory, of a run of pages, or of a copy of scattered ones."""
    if segment.dense is not None:
        assert dense is not None
        row, slot = segment.dense
        _, heads, slots, dim = dense.shape
        shape, strides = (segment.num_seqs, heads, segment.length, dim), dense.stride()
        return dense.as_strided(shape, strides, (row * heads * slots + slot) * dim)
    _, block_size, heads, dim = cache.shape
    if segment.fresh:
        return new[segment.rows].transpose(0, 1).unsqueeze(0)
    length, token = segment.length, heads * dim
    if segment.span is not None:
        shape, strides = (1, heads, length, dim), (0, dim, token, 1)
        return cache.as_strided(shape, strides, cache.storage_offset() + segment.span * token)
    assert segment.blocks is not None
    pages = cache.index_select(0, segment.blocks)
    if segment.unused is not None:
        pages.view(-1, token).index_fill_(0, segment.unused, 0)
    width = pages.shape[0] // segment.num_seqs * block_size * token
    return pages.as_strided((segment.num_seqs, heads, length, dim), (width, dim, token, 1))


def _decode(query: Tensor, key: Tensor, value: Tensor, segment: Segment, scale: float) -> Tensor:
    """One query a sequence: the heads of a KV group become queries, so nothing is repeated."""
    num_seqs, num_heads, head_dim = query.shape
    grouped = query.view(num_seqs, key.shape[1], -1, head_dim)
    bias = segment.bias(query.dtype)
    out = F.scaled_dot_product_attention(grouped, key, value, attn_mask=bias, scale=scale)
    return out.reshape(num_seqs, num_heads, value.shape[3])


def _prefill(query: Tensor, key: Tensor, value: Tensor, segment: Segment, scale: float) -> Tensor:
    bias = segment.bias(query.dtype)
    out = F.scaled_dot_product_attention(
        query.transpose(0, 1).unsqueeze(0),
        key,
        value,
        attn_mask=bias,
        is_causal=bias is None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out[0].transpose(0, 1)


def _explicit(
    query: Tensor, key: Tensor, value: Tensor, segment: Segment, options: AttentionOptions
) -> Tensor:
    """Scores in the open, for what ``scaled_dot_product_attention`` has no argument for."""
    num_heads, head_dim = query.shape[1:]
    seqs, queries, kv_heads = segment.num_seqs, segment.num_queries, key.shape[1]
    grouped = query.view(seqs, queries, kv_heads, -1, head_dim).permute(0, 2, 3, 1, 4)
    scores = grouped @ key.transpose(2, 3).unsqueeze(2)  # [n, Hkv, G, q, length]
    scores = scores.float() * options.scale
    if options.softcap is not None:
        scores = torch.tanh(scores / options.softcap) * options.softcap
    bias = _causal_bias(segment, scores)
    if bias is not None:
        scores += bias.unsqueeze(1)
    if options.sinks is not None:
        sink = options.sinks.to(scores.dtype).view(1, kv_heads, -1, 1, 1)
        scores = torch.cat([scores, sink.expand(*scores.shape[:-1], 1)], dim=-1)
    weights = scores.softmax(dim=-1)[..., : segment.length].to(value.dtype)
    out = weights @ value.unsqueeze(2)
    return out.permute(0, 3, 1, 2, 4).reshape(seqs * queries, num_heads, value.shape[3])


def _causal_bias(segment: Segment, scores: Tensor) -> Tensor | None:
    if segment.fresh and segment.visible is None:
        count = segment.num_queries
        ones = torch.ones(1, count, count, dtype=torch.bool, device=scores.device)
        segment.visible = ones.tril()
    return segment.bias(scores.dtype)
