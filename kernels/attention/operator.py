"""The paged attention operator: its public function, registration and device dispatch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .checks import check_inputs
from .metadata import AttentionMetadata
from .options import AttentionOptions
from .torch_path import torch_paged_attention

_NAME = "gistserve::paged_attention"
_SCHEMA = (
    "(Tensor query, Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache, "
    "Tensor query_start_loc, Tensor seq_lens, Tensor block_table, Tensor slot_mapping, "
    "SymInt max_query_len, SymInt max_seq_len, float scale, int? sliding_window=None, "
    "float? softcap=None, Tensor? sinks=None) -> Tensor"
)
torch.library.define(_NAME, _SCHEMA)


def paged_attention(
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
    """Write a packed batch's keys and values into their pages, then attend to the pages.

    Token ``i`` of a sequence sees the slots up to its own, with a window only the last
    ``sliding_window`` of them (its own included). Scores are ``scale * q.k``; a soft-cap ``c``
    makes them ``c * tanh(score / c)`` (Gemma 2, arXiv 2408.00118); a sink adds ``exp(sinks[h])``
    to head ``h``'s softmax denominator (gpt-oss, arXiv 2508.10925).

    What unused slots hold, even if it is no number, never reaches the result.

    CUDA tensors are computed by Triton kernels, all others in plain torch. Under ``torch.compile``
    the call is one node, the operator ``torch.ops.gistserve.paged_attention``; otherwise it goes
    past the operator, for the metadata carries what earlier layers of a step worked out.

    Args:
        query: ``[T, Hq, D]``, rows of all sequences one after another.
        key: ``[T, Hkv, D]``; ``Hq`` is a multiple of ``Hkv``.
        value: ``[T, Hkv, Dv]``; ``Dv`` may differ from ``D``.
        key_cache: ``[num_blocks, block_size, Hkv, D]``, contiguous, changed in place.
        value_cache: ``[num_blocks, block_size, Hkv, Dv]``, contiguous, changed in place.
        metadata: where the tokens live; one object serves all layers of a step.
        scale: factor of the scores.
        sliding_window: slots a token sees, or None for all.
        softcap: bound of the scores, or None.
        sinks: ``[Hq]``, or None.

    Returns:
        ``[T, Hq, Dv]`` in the dtype of ``query``.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or a kernel does not know them (CUDA).
    """
    if torch.compiler.is_compiling():
        return torch.ops.gistserve.paged_attention(
            query,
            key,
            value,
            key_cache,
            value_cache,
            metadata.query_start_loc,
            metadata.seq_lens,
            metadata.block_table,
            metadata.slot_mapping,
            metadata.max_query_len,
            metadata.max_seq_len,
            scale,
            sliding_window,
            softcap,
            sinks,
        )
    options = AttentionOptions(scale, sliding_window, softcap, sinks)
    return _attend(query, key, value, key_cache, value_cache, metadata, options)


@torch.library.impl(_NAME, "CompositeExplicitAutograd")
def _operator(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    *arrays_and_options: Any,
) -> Tensor:
    metadata = AttentionMetadata(*arrays_and_options[:6])
    options = AttentionOptions(*arrays_and_options[6:])
    return _attend(query, key, value, key_cache, value_cache, metadata, options).contiguous()


@torch.library.register_fake(_NAME)
def _fake(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> Tensor:
    return query.new_empty(*query.shape[:2], value.shape[2])


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    metadata: AttentionMetadata,
    options: AttentionOptions,
) -> Tensor:
    check_inputs(query, key, value, key_cache, value_cache, metadata, options)
    attend = (_triton_path() if query.is_cuda else None) or torch_paged_attention
    return attend(query, key, value, key_cache, value_cache, metadata, options)


@cache
def _triton_path() -> Callable[..., Tensor] | None:
    """Triton's implementation, where Triton is installed (it is for Linux alone)."""
    if importlib.util.find_spec("triton") is None:
        return None
    from .triton_path import triton_paged_attention

    return triton_paged_attention
