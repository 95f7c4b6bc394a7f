"""Mixing: the ratio in every batch, totals, and batches that depend on nothing but the step."""

from collections import Counter
from fractions import Fraction
from math import ceil, floor

import pytest
from gistserve.training.continual.mixing import Mixture, mixture_weights
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.05, 0.25, 0.5])
@pytest.mark.parametrize("batch_size", [1, 6, 64])
def test_replay_in_every_batch_and_in_total(ratio: float, batch_size: int) -> None:
    mixture = Mixture(mixture_weights(ratio, [1.0], [1.0]), batch_size)
    exact = Fraction(str(ratio)) * batch_size
    seen = 0
    for step in range(300):
        assert mixture.totals(step)[0] == seen
        replayed, new = mixture.counts(step)
        assert replayed in {floor(exact), ceil(exact)}
        assert replayed + new == batch_size
        seen += replayed
        assert abs(seen - exact * (step + 1)) < 1
    assert seen == floor(exact * 300)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=3),
    st.lists(st.integers(1, 50), min_size=1, max_size=3),
    st.sampled_from([0.01, 0.05, 1 / 3, 0.5, 0.99]),
    st.integers(1, 40),
    st.integers(0, 2000),
)
def test_no_source_is_a_row_off(
    replay: list[int], new: list[int], ratio: float, batch_size: int, step: int
) -> None:
    weights = mixture_weights(ratio, replay, new)
    mixture = Mixture(weights, batch_size)
    totals = mixture.totals(step)
    assert sum(totals) == step * batch_size
    for total, weight in zip(totals, weights, strict=True):
        assert abs(total - weight * step * batch_size) < 1
    replayed = sum(mixture.counts(step)[: len(replay)])
    exact = Fraction(str(ratio)) * batch_size
    assert replayed in {floor(exact), ceil(exact)}


def test_every_row_is_dealt_once_and_in_order() -> None:
    mixture = Mixture(mixture_weights(0.25, [2.0, 1.0], [1.0]), 6, seed=3)
    dealt: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for step in range(40):
        batch = mixture.batch(step)
        assert Counter(row.source for row in batch) == Counter(
            {source: count for source, count in enumerate(mixture.counts(step)) if count}
        )
        for source in dealt:
            dealt[source] += sorted(row.row for row in batch if row.source == source)
    for rows in dealt.values():
        assert rows == list(range(len(rows)))


def test_a_batch_depends_on_the_step_alone() -> None:
    weights = mixture_weights(0.05, [1.0], [1.0, 3.0])
    in_order = [Mixture(weights, 16, seed=1).batch(step) for step in range(20)]
    late = Mixture(weights, 16, seed=1)
    assert [late.batch(step) for step in reversed(range(20))] == in_order[::-1]
    assert Mixture(weights, 16, seed=2).batch(5) != in_order[5]


def test_rows_of_a_source_are_spread_over_the_batch() -> None:
    """Else some processes would see replayed rows only."""
    mixture = Mixture(mixture_weights(0.5, [1.0], [1.0]), 8)
    firsts = {tuple(row.source for row in mixture.batch(step)) for step in range(20)}
    assert len(firsts) > 10


def test_decimals_are_taken_as_written() -> None:
    assert mixture_weights(0.1, [1.0], [0.1, 0.3]) == [
        Fraction(1, 10),
        Fraction(9, 40),
        Fraction(27, 40),
    ]
    assert mixture_weights(0.0, [], [1.0]) == [Fraction(1)]


@pytest.mark.parametrize(
    "weights", [[], [Fraction(1, 2)], [Fraction(-1, 2), Fraction(3, 2)]], ids=str
)
def test_weights_that_are_none(weights: list[Fraction]) -> None:
    with pytest.raises(ValueError, match="must be at least 0 and sum to 1"):
        Mixture(weights, 4)


def test_shares_that_are_all_zero() -> None:
    with pytest.raises(ValueError, match="must not all be 0"):
        mixture_weights(0.5, [0.0], [1.0])
