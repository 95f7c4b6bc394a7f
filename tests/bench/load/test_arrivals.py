"""Arrival times of open loops."""

import numpy as np
import pytest
from gistserve.bench.load.arrivals import arrival_times
from gistserve.bench.load.errors import LoadError
from gistserve.bench.load.point import Point, sweep
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 50), st.floats(0.1, 1e3), st.floats(0.05, 50), st.integers(0, 2**32))
def test_times_ascend_and_are_repeatable(count, rate, burstiness, seed) -> None:
    times = arrival_times(count, rate, burstiness, np.random.default_rng(seed))
    assert len(times) == count
    assert times[0] >= 0
    assert (np.diff(times) >= 0).all()
    again = arrival_times(count, rate, burstiness, np.random.default_rng(seed))
    np.testing.assert_array_equal(times, again)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_rate_and_the_burstiness(burstiness: float) -> None:
    times = arrival_times(100_000, 20.0, burstiness, np.random.default_rng(1))
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.02)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(1 / burstiness, rel=0.05)


def test_poisson_arrivals_have_no_memory() -> None:
    """Counts in windows have the variance of their mean, and gaps follow exp(-rate·t)."""
    times = arrival_times(100_000, 10.0, 1.0, np.random.default_rng(2))
    counts = np.bincount(times.astype(int))[:-1]
    assert counts.var() == pytest.approx(counts.mean(), rel=0.05)
    for seconds in (0.05, 0.1, 0.3):
        share = (np.diff(times) > seconds).mean()
        assert share == pytest.approx(np.exp(-10 * seconds), abs=0.01)


def test_a_sweep_has_a_point_for_each_load() -> None:
    assert sweep([], [], 1.0) == (Point(concurrency=1), Point(concurrency=8))
    points = sweep([4], [0.5, 2.0], 3.0)
    assert points == (Point(4), Point(rate=0.5, burstiness=3.0), Point(rate=2.0, burstiness=3.0))


@pytest.mark.parametrize(("rate", "burstiness"), [(0, 1), (-1, 1), (1, 0), (float("inf"), 1)])
def test_impossible_rates_are_refused(rate: float, burstiness: float) -> None:
    with pytest.raises(LoadError, match="must be above 0"):
        sweep([], [rate], burstiness)
