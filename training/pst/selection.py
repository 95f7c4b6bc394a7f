"""Which elements of a matrix stay, at any sparsity on the way to the final one."""

import torch
from torch import Tensor

from ...compress.errors import SparsityError
from ...compress.sparse.pattern import Pattern, check_sparsity, keep_mask, kept_count
from ...kernels.sparse import SEGMENT

_GROUP = 4
_BUCKETS = 1 << 16
_CHUNK = 1 << 22
_FEW = 1 << 17
"""Up to so many elements `kthvalue` was as fast as two histograms, on a CPU."""


def check_pattern(name: str, shape: tuple[int, int], sparsity: float, pattern: Pattern) -> None:
    """Raise SparsityError where a matrix `[N, K]` cannot have that final sparsity and pattern."""
    check_sparsity(sparsity, pattern)
    rows, columns = shape
    if pattern is Pattern.two_four:
        if columns % _GROUP:
            raise SparsityError(
                f"{name} has rows of {columns} elements, no multiple of 4: it cannot be 2:4; "
                "leave it out of layers, or choose another pattern"
            )
        return
    width = columns % SEGMENT or min(columns, SEGMENT)
    compared = rows * columns if pattern is Pattern.unstructured else width
    if compared * (1 - sparsity) < 0.5:
        raise SparsityError(
            f"a sparsity of {sparsity} leaves {name} nothing of {compared} elements that are "
            f"compared with each other ({pattern}); lower it"
        )


def select(scores: Tensor, sparsity: float, pattern: Pattern) -> Tensor:
    """Bool mask of the highest `scores` (float32 `[N, K]`), of equal ones the first.

    unstructured: `kept_count` of the whole matrix. balanced: `kept_count` of every 256-column
    segment of each row. 2:4: the two best of every four neighbours, and, while `sparsity` is still
    below 0.5, the best of the others until `kept_count` of the matrix stay.
    """
    if pattern is Pattern.balanced:
        return keep_mask(scores, sparsity, pattern, by_row=True)
    if pattern is Pattern.two_four:
        best = keep_mask(scores, 0.5, pattern, by_row=True)
        scores = scores.masked_fill(best, torch.inf)
    return _largest(scores.flatten(), kept_count(scores.numel(), sparsity)).view(scores.shape)


def _largest(values: Tensor, count: int) -> Tensor:
    """Mask of exactly the `count` largest of `values` [n], of equal ones the first."""
    keys = _sortable(values)
    threshold = _kth_largest(keys, count)
    mask = keys > threshold
    equal = (keys == threshold).nonzero().flatten()
    mask[equal[: count - int(mask.sum())]] = True
    return mask


def _sortable(values: Tensor) -> Tensor:
    """int32 keys in the order of float32 `values`; 0 and -0 are equal."""
    bits = (values.float() + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _kth_largest(keys: Tensor, count: int) -> int:
    """The `count`-th largest of int32 `keys`, without sorting: from two histograms of 16 bits."""
    if len(keys) <= _FEW:
        return int(keys.kthvalue(len(keys) - count + 1).values)
    high, rank = _bucket(_histogram(keys >> 16, -_BUCKETS // 2), count)
    high -= _BUCKETS // 2
    inside = keys[(keys >> 16) == high]
    low, _ = _bucket(_histogram(inside & (_BUCKETS - 1), 0), rank)
    return (high << 16) | low


def _histogram(keys: Tensor, first: int) -> Tensor:
    counts = torch.zeros(_BUCKETS, dtype=torch.int64, device=keys.device)
    for chunk in keys.split(_CHUNK):
        counts += torch.bincount(chunk - first, minlength=_BUCKETS)
    return counts


def _bucket(counts: Tensor, count: int) -> tuple[int, int]:
    """The bucket that holds the `count`-th largest, and its rank from the top in there."""
    above = counts.flip(0).cumsum(0)
    index = int(torch.searchsorted(above, count))
    before = int(above[index - 1]) if index else 0
    return len(counts) - 1 - index, count - before
