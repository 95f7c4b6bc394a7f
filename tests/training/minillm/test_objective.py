"""The objective's pure functions, against loops over single tokens."""

import math

import pytest
import torch
from gistserve.training.minillm.objective import (
    following_rewards,
    importance_weights,
    sampled_loss,
)
from hypothesis import given
from hypothesis import strategies as st

log_probs = st.floats(-200, 0, width=32)
shares = st.floats(0, 0.99)


@given(st.lists(st.tuples(log_probs, log_probs), min_size=1), shares)
def test_weights_are_bounded(pairs: list[tuple[float, float]], alpha: float) -> None:
    student, teacher = torch.tensor(pairs).T
    weights = importance_weights(student, teacher, alpha)
    assert bool((weights <= torch.tensor(1 / (1 - alpha)) * (1 + 1e-6)).all())
    assert bool((weights >= 0).all())


@given(log_probs, log_probs, shares)
def test_weights_are_those_of_the_mixture(student: float, teacher: float, alpha: float) -> None:
    q, p = math.exp(student), math.exp(teacher)
    if q < 1e-30:  # nothing in float64 to compare with
        return
    expected = q / (alpha * p + (1 - alpha) * q)
    weight = importance_weights(torch.tensor(student), torch.tensor(teacher), alpha)
    assert float(weight) == pytest.approx(expected, rel=1e-3, abs=1e-30)


def test_no_mixing_needs_no_weights() -> None:
    student, teacher = torch.tensor([-200.0, 0.0]), torch.tensor([0.0, -200.0])
    assert importance_weights(student, teacher, 0).tolist() == [1, 1]


rows = st.integers(1, 6).flatmap(
    lambda width: st.lists(
        st.tuples(
            st.lists(st.floats(-50, 50), min_size=width, max_size=width),
            st.integers(0, width - 1),
            st.integers(1, width),
        ),
        min_size=1,
        max_size=4,
    )
)


@given(rows, st.booleans())
def test_following_rewards(cases: list[tuple[list[float], int, int]], normalise: bool) -> None:
    rewards = torch.tensor([values for values, _, _ in cases], dtype=torch.float64)
    mask = torch.zeros(rewards.shape, dtype=torch.bool)
    for row, (_, start, length) in enumerate(cases):
        mask[row, start : start + length] = True
    found = following_rewards(rewards, mask, normalise=normalise)
    for row in range(len(cases)):
        places = mask[row].nonzero().flatten().tolist()
        for column in range(rewards.shape[1]):
            after = [float(rewards[row, p]) for p in places if p > column]
            if column not in places:
                after = []
            expected = sum(after) / (len(after) if normalise and after else 1)
            assert float(found[row, column]) == pytest.approx(expected, abs=1e-9)


def test_nothing_follows_the_last_token() -> None:
    """R of an empty sum is 0, and nothing is divided by its length."""
    rewards, mask = torch.tensor([[7.0]]), torch.tensor([[True]])
    assert following_rewards(rewards, mask, normalise=True).tolist() == [[0]]


def test_padding_may_hold_anything() -> None:
    rewards = torch.tensor([[torch.nan, 1.0, 2.0, torch.inf]])
    mask = torch.tensor([[False, True, True, False]])
    assert following_rewards(rewards, mask, normalise=True).tolist() == [[0, 2, 0, 0]]


@given(
    st.floats(-1, 1), st.floats(-5, 5), st.floats(0, 1.25), st.floats(0.05, 0.5), st.floats(-3, 0)
)
def test_gradient_of_the_surrogate(
    moved: float, advantage: float, weight: float, clip: float, old: float
) -> None:
    ratio = math.exp(moved)
    if min(abs(ratio - 1 - clip), abs(ratio - 1 + clip)) < 1e-6:
        return
    log_prob = torch.tensor(old + moved, dtype=torch.float64, requires_grad=True)
    others = [
        torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for value in (old, weight, advantage)
    ]
    sampled_loss(log_prob, *others, clip).backward()
    past = (advantage > 0 and ratio > 1 + clip) or (advantage < 0 and ratio < 1 - clip)
    expected = 0 if past else -weight * advantage * ratio
    assert float(log_prob.grad) == pytest.approx(expected, abs=1e-9)
    assert all(other.grad is None for other in others)
