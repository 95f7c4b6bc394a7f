"""Rows of token ids as one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_rows(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of any length as one int64 tensor, padded on the right with `value`."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *([value] * (width - len(row)))] for row in rows])


def pad_left(rows: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """Rows as int64 [B, P], padded on the left with `value`, and their mask, 1 at real tokens."""
    width = max(len(row) for row in rows)
    skips = [width - len(row) for row in rows]
    ids = [[*([value] * skip), *row] for skip, row in zip(skips, rows, strict=True)]
    mask = [[0] * skip + [1] * len(row) for skip, row in zip(skips, rows, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)
