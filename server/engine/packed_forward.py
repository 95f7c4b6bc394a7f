"""A transformers model called on a packed batch."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from .attention_backend import CONTEXT_KEYWORD, AttentionContext


def packed_logits(
    model: PreTrainedModel,
    token_ids: Tensor,
    positions: Tensor,
    context: AttentionContext,
    *,
    rows: Tensor | None = None,
    upright: bool = False,
) -> Tensor:
    """Logits of a packed batch of T tokens.

    Args:
        model: set to our attention.
        token_ids: int64 ``[T]``.
        positions: int64 ``[T]``, logical.
        context: what attention attends to.
        rows: int64 ``[R]``, the tokens whose logits are wanted; None for all.
        upright: whether each sequence has one token, which is faster as a column of tokens.

    Returns:
        ``[R, V]`` in the model's dtype.
    """
    dim = 1 if upright else 0
    result = model(
        input_ids=token_ids.unsqueeze(dim),
        position_ids=positions.unsqueeze(dim),
        use_cache=False,
        # With 0 the head runs over all rows, without an index.
        logits_to_keep=0 if rows is None else rows,
        **{CONTEXT_KEYWORD: context},
    )
    logits: Tensor = result.logits.squeeze(dim)
    return logits
