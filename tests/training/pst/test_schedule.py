"""The cubic schedule at points worked out by hand."""

import pytest
from gistserve.training.pst.schedule import cubic_sparsity


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.0),
        (100, 0.0),  # the first tenth
        (250, 0.9 - 0.9 * 0.75**3),  # a quarter of the way from step 100 to step 700
        (400, 0.9 - 0.9 * 0.125),
        (699, 0.9 - 0.9 * (1 / 600) ** 3),
        (700, 0.9),  # the last three tenths
        (1000, 0.9),
    ],
)
def test_points(step: int, expected: float) -> None:
    assert cubic_sparsity(step, 1000, 0.9) == pytest.approx(expected, abs=1e-12)


def test_another_start_and_other_shares() -> None:
    halfway = cubic_sparsity(50, 100, 0.8, initial=0.4, warmup=0.0, cooldown=0.0)
    assert halfway == pytest.approx(0.8 - 0.4 * 0.125)
    assert cubic_sparsity(0, 100, 0.8, initial=0.4, warmup=0.0, cooldown=0.0) == 0.4


def test_it_never_falls_and_ends_exactly_at_the_final_sparsity() -> None:
    points = [cubic_sparsity(step, 77, 0.9) for step in range(78)]
    assert points == sorted(points)
    assert points[-1] == 0.9


@pytest.mark.parametrize(("warmup", "cooldown"), [(-0.1, 0.3), (0.8, 0.3)])
def test_shares_that_do_not_fit_are_refused(warmup: float, cooldown: float) -> None:
    with pytest.raises(ValueError, match="shares of all steps"):
        cubic_sparsity(1, 10, 0.9, warmup=warmup, cooldown=cooldown)
