"""The paged attention operator: its public function, registration and device dispatch."""

from __future__ import annotations

import torch
from torch import Tensor

from .metadata import AttentionMetadata
from .torch_path import torch_paged_attention

_NAME = "gistserve::paged_attention"
_SCHEMA = (
    "(Tensor query, Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache, "
    "Tensor query_start_loc, Tensor seq_lens, Tensor block_table, Tensor slot_mapping, "
    "int max_query_len, int max_seq_len, float scale, int? sliding_window=None, "
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

    Outside ``torch.compile`` CPU tensors take the plain-torch path directly, because there the
    metadata carries what earlier layers of the step worked out; everything else goes through the
    registered operator ``torch.ops.gistserve.paged_attention``.

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
    """
    if query.device.type == "cpu" and not torch.compiler.is_compiling():
        return torch_paged_attention(
            query,
            key,
            value,
            key_cache,
            value_cache,
            metadata,
            scale=scale,
            sliding_window=sliding_window,
            softcap=softcap,
            sinks=sinks,
        )
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


@torch.library.impl(_NAME, "CompositeExplicitAutograd")
def _any_device(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    query_start_loc: Tensor,
    seq_lens: Tensor,
    block_table: Tensor,
    slot_mapping: Tensor,
    max_query_len: int,
    max_seq_len: int,
    scale: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    metadata = AttentionMetadata(
        query_start_loc, seq_lens, block_table, slot_mapping, max_query_len, max_seq_len
    )
    return torch_paged_attention(
        query,
        key,
        value,
        key_cache,
        value_cache,
        metadata,
        scale=scale,
        sliding_window=sliding_window,
        softcap=softcap,
        sinks=sinks,
    ).contiguous()


@torch.library.register_fake(_NAME)
def _fake(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> Tensor:
    return query.new_empty(*query.shape[:2], value.shape[2])
