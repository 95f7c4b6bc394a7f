"""Masks of every pattern: how many are kept, which, and what cannot be expressed."""

import numpy as np
import pytest
import torch
from gistserve.compress.errors import SparsityError
from gistserve.compress.sparse import Pattern
from gistserve.training.pst import selection
from gistserve.training.pst.selection import check_pattern, select
from hypothesis import given
from hypothesis import strategies as st

SEGMENT = 256


def scores_of(seed: int, rows: int, columns: int, distinct: int) -> torch.Tensor:
    """Scores with many ties where there are few `distinct` ones; zeros of both signs among them."""
    generator = np.random.default_rng(seed)
    values = generator.integers(-distinct, distinct + 1, (rows, columns)).astype(np.float32)
    values[values == 0] *= generator.choice([-1.0, 1.0])
    return torch.from_numpy(values / 8)


def stable_top(values: np.ndarray, count: int) -> np.ndarray:
    """By sorting: the largest, of equal ones the first."""
    mask = np.zeros(values.size, bool)
    mask[np.argsort(-values, kind="stable")[:count]] = True
    return mask


cases = st.tuples(
    st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 70), st.sampled_from([1, 3, 1000])
)


@given(cases, st.floats(0, 0.99))
def test_unstructured_keeps_exactly_the_largest(case: tuple[int, ...], sparsity: float) -> None:
    scores = scores_of(*case)
    kept = max(1, round(scores.numel() * (1 - sparsity)))
    expected = stable_top(scores.flatten().numpy(), kept).reshape(scores.shape)
    mask = select(scores, sparsity, Pattern.unstructured).numpy()
    assert mask.sum() == kept
    assert (mask == expected).all()


@given(cases, st.floats(0, 0.99))
def test_histograms_select_what_kthvalue_does(case: tuple[int, ...], sparsity: float) -> None:
    scores = scores_of(*case) * torch.tensor(1e-3)
    few = selection._FEW
    by_kthvalue = select(scores, sparsity, Pattern.unstructured)
    try:
        selection._FEW, selection._CHUNK = 0, 16
        by_histogram = select(scores, sparsity, Pattern.unstructured)
    finally:
        selection._FEW, selection._CHUNK = few, 1 << 22
    assert torch.equal(by_histogram, by_kthvalue)


def test_the_threshold_is_found_among_ordinary_floats() -> None:
    scores = torch.randn(500, 300, generator=torch.Generator().manual_seed(0))
    assert scores.numel() > selection._FEW
    expected = stable_top(scores.flatten().numpy(), 15_000).reshape(scores.shape)
    assert (select(scores, 0.9, Pattern.unstructured).numpy() == expected).all()


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 600), st.floats(0, 0.99))
def test_balanced_counts_are_exact_in_every_segment(
    seed: int, rows: int, columns: int, sparsity: float
) -> None:
    scores = scores_of(seed, rows, columns, 20)
    mask = select(scores, sparsity, Pattern.balanced)
    for start in range(0, columns, SEGMENT):
        part = mask[:, start : start + SEGMENT]
        kept = max(1, round(part.shape[1] * (1 - sparsity)))
        assert part.sum(1).tolist() == [kept] * rows
        for row, chosen in enumerate(part):
            values = scores[row, start : start + SEGMENT].numpy()
            assert (chosen.numpy() == stable_top(values, kept)).all()


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 20), st.floats(0, 0.5))
def test_two_four_is_reached_by_way_of_exact_counts(
    seed: int, rows: int, groups: int, sparsity: float
) -> None:
    scores = scores_of(seed, rows, 4 * groups, 5)
    mask = select(scores, sparsity, Pattern.two_four)
    assert mask.sum() == round(scores.numel() * (1 - sparsity))
    best = np.stack([stable_top(group, 2) for group in scores.reshape(-1, 4).numpy()])
    assert mask.reshape(-1, 4).numpy()[best].all()
    final = select(scores, 0.5, Pattern.two_four)
    assert (final.reshape(-1, 4).numpy() == best).all()


@pytest.mark.parametrize(
    ("shape", "sparsity", "pattern", "message"),
    [
        ((8, 8), 0.9, "2:4", "sparsity of 0.5"),
        ((8, 10), 0.5, "2:4", "blocks.0.q has rows of 10 elements"),
        ((2, 2), 0.9, "unstructured", "leaves blocks.0.q nothing of 4"),
        ((64, 260), 0.9, "balanced", "nothing of 4"),
        ((64, 256), 1.0, "balanced", "less than 1"),
        ((64, 256), -0.1, "unstructured", "at least 0"),
    ],
)
def test_what_a_pattern_cannot_express_is_refused(
    shape: tuple[int, int], sparsity: float, pattern: str, message: str
) -> None:
    with pytest.raises(SparsityError, match=message):
        check_pattern("blocks.0.q", shape, sparsity, Pattern(pattern))


def test_what_it_can_express_is_not() -> None:
    check_pattern("q", (8, 8), 0.5, Pattern.two_four)
    check_pattern("q", (64, 300), 0.9, Pattern.balanced)
    check_pattern("q", (4, 4), 0.9, Pattern.unstructured)
