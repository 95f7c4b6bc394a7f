"""Distributions of lengths."""

import numpy as np
import pytest
from gistserve.bench.load.errors import LoadError
from gistserve.bench.load.lengths import Lengths, parse_lengths
from hypothesis import given
from hypothesis import strategies as st

LIMITS = st.tuples(st.integers(1, 5000), st.integers(1, 5000)).map(sorted)


@given(
    st.sampled_from(["uniform", "normal", "lognormal"]),
    st.floats(1, 1000),
    st.floats(0, 3),
    LIMITS,
    st.integers(0, 2**32),
)
def test_samples_are_whole_within_the_limits_and_repeatable(
    kind, centre: float, spread: float, limits: list[int], seed: int
) -> None:
    lengths = Lengths(kind, centre, spread, *limits)
    drawn = lengths.sample(np.random.default_rng(seed), 50)
    assert all(isinstance(n, int) and limits[0] <= n <= limits[1] for n in drawn)
    assert drawn == lengths.sample(np.random.default_rng(seed), 50)


@pytest.mark.parametrize(
    ("form", "mean", "sd"),
    [
        ("128", 128, 0),
        ("uniform:10,30", 20, ((21**2 - 1) / 12) ** 0.5),
        ("normal:500,40", 500, 40),
        # of a lognormal: median·exp(σ²/2), and that times sqrt(exp(σ²) - 1)
        ("lognormal:300,0.5", 300 * np.exp(0.125), 300 * np.exp(0.125) * np.expm1(0.25) ** 0.5),
    ],
)
def test_moments_are_those_of_the_distribution(form: str, mean: float, sd: float) -> None:
    drawn = parse_lengths(form).sample(np.random.default_rng(0), 40_000)
    assert np.mean(drawn) == pytest.approx(mean, rel=0.01)
    assert np.std(drawn) == pytest.approx(sd, rel=0.03, abs=0.3)


def test_both_ends_of_a_uniform_distribution_occur() -> None:
    assert set(parse_lengths("uniform:3,5").sample(np.random.default_rng(0), 100)) == {3, 4, 5}


@pytest.mark.parametrize(
    "form", ["7", "uniform:1,9", "normal:12.5,3", "normal:9,3,2,11", "lognormal:64,0.3,16,128"]
)
def test_a_form_is_written_as_it_was_read(form: str) -> None:
    assert str(parse_lengths(form)) == form


@pytest.mark.parametrize(
    "form",
    [
        *("", "0", "1.5", "-3", "x", "3,4", "1e999", "zipf:1,2"),
        *("uniform:9,1", "uniform:1", "uniform:0,4", "lognormal:inf,1"),
        *("normal:5", "normal:5,-1", "normal:5,1,9,2", "normal:nan,1"),
    ],
)
def test_other_forms_are_refused_with_the_known_ones(form: str) -> None:
    with pytest.raises(LoadError, match="lognormal:MEDIAN,SIGMA"):
        parse_lengths(form)
