"""Which elements of a weight are kept, given their importance scores."""

from enum import StrEnum

import torch
from torch import Tensor

from ...kernels.sparse import SEGMENT
from ..errors import SparsityError

_TWO_FOUR_GROUP = 4


class Pattern(StrEnum):
    """Where zeros lie: anywhere; equally many in each 256-column segment of a row; 2 of every 4."""

    unstructured = "unstructured"
    balanced = "balanced"
    two_four = "2:4"


def check_sparsity(sparsity: float, pattern: Pattern) -> None:
    """Raise SparsityError unless `sparsity`, the share of zeros, is in [0, 1) and fits."""
    if not 0 <= sparsity < 1:
        raise SparsityError(
            f"sparsity must be at least 0 and less than 1 (0.9: nine of ten weights become zero), "
            f"got {sparsity}"
        )
    if pattern is Pattern.two_four and sparsity != 0.5:
        raise SparsityError(
            f"the pattern 2:4 has a sparsity of 0.5, got {sparsity}; choose 0.5 or another pattern"
        )


def kept_count(size: int, sparsity: float) -> int:
    """Elements kept of `size` that are compared with each other: the nearest number, at least 1."""
    return max(1, round(size * (1 - sparsity)))


def keep_mask(scores: Tensor, sparsity: float, pattern: Pattern, *, by_row: bool) -> Tensor:
    """The bool mask `[N, K]` of the elements to keep: those with the highest scores.

    unstructured: `kept_count` of each row where `by_row`, else of the whole matrix.
    balanced: `kept_count(256)` of every whole 256-column segment of a row, `kept_count(w)` of a
    last one of w columns. 2:4: two of every four neighbours. Of equal scores the first are kept.

    Raises SparsityError for scores that are not finite, or K no multiple of 4 with 2:4.
    """
    rows, columns = scores.shape
    if not torch.isfinite(scores).all():
        raise SparsityError("its weights hold NaN or infinity; repair the model first")
    if pattern is Pattern.two_four:
        if columns % _TWO_FOUR_GROUP:
            raise SparsityError(f"2:4 needs rows of a multiple of 4 elements, this has {columns}")
        groups = scores.reshape(-1, _TWO_FOUR_GROUP)
        return _keep_largest(groups, _TWO_FOUR_GROUP // 2).view(rows, columns)
    if pattern is Pattern.balanced:
        return _keep_in_segments(scores, sparsity)
    groups = scores if by_row else scores.reshape(1, -1)
    return _keep_largest(groups, kept_count(groups.shape[1], sparsity)).view(rows, columns)


def _keep_in_segments(scores: Tensor, sparsity: float) -> Tensor:
    rows, columns = scores.shape
    whole = columns - columns % SEGMENT
    segments = scores[:, :whole].reshape(-1, SEGMENT)
    parts = []
    if whole:
        mask = _keep_largest(segments, kept_count(SEGMENT, sparsity))
        parts.append(mask.view(rows, whole))
    if whole < columns:
        rest = scores[:, whole:]
        parts.append(_keep_largest(rest, kept_count(columns - whole, sparsity)))
    return torch.cat(parts, dim=1)


def _keep_largest(groups: Tensor, count: int) -> Tensor:
    """Mask of the `count` largest of each row, exactly so many also among equal ones."""
    size = groups.shape[1]
    threshold = groups.kthvalue(size - count + 1, dim=1, keepdim=True).values
    above = groups > threshold
    equal = groups == threshold
    missing = count - above.sum(dim=1, keepdim=True)
    return above | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= missing))
