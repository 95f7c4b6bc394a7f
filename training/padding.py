"""Rows of token ids as one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_rows(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of any length as one int64 tensor, padded on the right with `value`."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *([value] * (width - len(row)))] for row in rows])
