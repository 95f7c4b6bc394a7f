"""How many elements are kept, and which."""

import numpy as np
import pytest
import torch
from gistserve.compress.errors import SparsityError
from gistserve.compress.sparse.pattern import Pattern, check_sparsity, keep_mask, kept_count
from hypothesis import given, settings
from hypothesis import strategies as st

SPARSITIES = st.floats(0, 0.999)


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    """By sorting: the `count` largest of a vector, the first of equal ones."""
    order = np.argsort(-scores, kind="stable")
    mask = np.zeros(scores.size, dtype=bool)
    mask[order[:count]] = True
    return mask


def expected_mask(scores, sparsity, pattern, by_row):
    rows, columns = scores.shape
    if pattern is Pattern.unstructured and not by_row:
        count = max(1, round(scores.size * (1 - sparsity)))
        return largest(scores.ravel(), count).reshape(rows, columns)
    width = {Pattern.unstructured: columns, Pattern.balanced: 256, Pattern.two_four: 4}[pattern]
    mask = np.zeros((rows, columns), dtype=bool)
    for row in range(rows):
        for start in range(0, columns, width):
            group = scores[row, start : start + width]
            count = max(1, round(group.size * (1 - sparsity)))
            mask[row, start : start + width] = largest(group, count)
    return mask


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 70).map(lambda n: 8 * n) | st.integers(1, 20),
    sparsity=SPARSITIES,
    pattern=st.sampled_from([Pattern.unstructured, Pattern.balanced]),
    by_row=st.booleans(),
    levels=st.sampled_from([2, 5, 10**6]),
)
def test_the_highest_scores_are_kept(rows, columns, sparsity, pattern, by_row, levels):
    # Few levels: many equal scores, of which exactly enough must be kept.
    scores = torch.randint(levels, (rows, columns), generator=torch.Generator().manual_seed(0))
    mask = keep_mask(scores.float(), sparsity, pattern, by_row=by_row)
    assert np.array_equal(mask, expected_mask(scores.numpy(), sparsity, pattern, by_row))


@pytest.mark.parametrize("by_row", [True, False])
def test_two_of_four(by_row):
    scores = torch.randint(4, (7, 24), generator=torch.Generator().manual_seed(0)).float()
    mask = keep_mask(scores, 0.5, Pattern.two_four, by_row=by_row)
    assert np.array_equal(mask, expected_mask(scores.numpy(), 0.5, Pattern.two_four, by_row))
    assert (mask.view(-1, 4).sum(1) == 2).all()


@pytest.mark.parametrize(
    ("pattern", "by_row", "kept"),
    [
        (Pattern.unstructured, False, 300),  # of all 3,000
        (Pattern.unstructured, True, 10 * 30),
        (Pattern.balanced, True, 10 * (26 + 4)),  # 256 and 44 columns
        (Pattern.balanced, False, 10 * (26 + 4)),
    ],
)
def test_exact_counts_at_nine_tenths(pattern, by_row, kept):
    scores = torch.rand(10, 300, generator=torch.Generator().manual_seed(0))
    assert int(keep_mask(scores, 0.9, pattern, by_row=by_row).sum()) == kept


def test_one_is_always_kept():
    assert kept_count(10, 0.999) == 1


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 90, float("nan")])
def test_a_sparsity_outside_the_range_is_refused(sparsity):
    with pytest.raises(SparsityError, match=f"less than 1.*got {sparsity}"):
        check_sparsity(sparsity, Pattern.unstructured)


def test_two_four_is_half():
    check_sparsity(0.5, Pattern.two_four)
    with pytest.raises(SparsityError, match=r"2:4 has a sparsity of 0.5, got 0.9"):
        check_sparsity(0.9, Pattern.two_four)


def test_two_four_needs_whole_groups():
    with pytest.raises(SparsityError, match="a multiple of 4 elements, this has 6"):
        keep_mask(torch.rand(2, 6), 0.5, Pattern.two_four, by_row=False)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(bad):
    scores = torch.rand(4, 8)
    scores[1, 2] = bad
    with pytest.raises(SparsityError, match="NaN or infinity"):
        keep_mask(scores, 0.5, Pattern.unstructured, by_row=False)
