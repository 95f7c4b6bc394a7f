"""What a model is given: pieces of documents as tensors that keep them apart."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .packing import Ids

IGNORED = -100
PADDING = 0


@dataclass(frozen=True)
class Example:
    """A piece of a document as one objective sees it.

    inputs: [n] int64 token ids. labels: what is to be predicted, or IGNORED; [n] for models of one
    stack, [m] for the decoder of an encoder-decoder model, which is given `decoder_inputs` [m].
    """

    inputs: Ids
    labels: Ids
    decoder_inputs: Ids = field(default_factory=lambda: np.zeros(0, np.int64))


def joined(rows: Sequence[Sequence[Ids]], fill: int, width: int | None = None) -> Tensor:
    """[R, T] int64: the arrays of each row one after another, filled up on the right."""
    width = max(sum(map(len, row)) for row in rows) if width is None else width
    out = np.full((len(rows), width), fill, np.int64)
    for line, row in zip(out, rows, strict=True):
        if row:
            values = np.concatenate(list(row))
            line[: len(values)] = values
    return torch.from_numpy(out)


def positions(rows: Sequence[Sequence[Ids]], first: int = 0) -> Tensor:
    """[R, T] int64: the place of each token in its piece, counted from `first`.

    Padding counts on as a piece of its own, so that no real piece is changed by it.
    """
    places = [[np.arange(first, first + len(piece)) for piece in row] for row in rows]
    width = max(sum(map(len, row)) for row in rows)
    for row in places:
        row.append(np.arange(first, first + width - sum(map(len, row))))
    return joined(places, first, width)


def segments(rows: Sequence[Sequence[Ids]]) -> Tensor:
    """[R, T] int64: 1, 2, ... for the pieces of a row, PADDING behind them."""
    numbered = [[np.full(len(piece), i + 1) for i, piece in enumerate(row)] for row in rows]
    return joined(numbered, PADDING)


def same_segment(queries: Tensor, keys: Tensor, *, causal: bool = False) -> Tensor:
    """Mask [R, 1, Q, K] bool, true where a query may see a key, from segments [R, Q] and [R, K].

    Padding sees everything: a query that sees nothing would be NaN.
    """
    mask = queries[:, :, None] == keys[:, None, :]
    if causal:
        mask &= torch.ones(mask.shape[1:], dtype=torch.bool, device=mask.device).tril()
    return (mask | (queries == PADDING)[:, :, None])[:, None]


def for_attention(mask: Tensor, model: Any) -> Tensor:
    """`mask` as the model's attention takes it: bool for sdpa, added numbers for eager."""
    if model.config._attn_implementation != "eager":
        return mask
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo().min)
