"""The break-even formula against counting."""

from gistserve.bench.prompts.break_even import break_even
from hypothesis import given
from hypothesis import strategies as st

SECONDS = st.one_of(
    st.integers(-40, 400).map(lambda n: n / 10), st.floats(-40, 40, allow_nan=False, width=32)
)


@given(SECONDS, st.one_of(st.integers(1, 80).map(lambda n: n / 10), st.floats(0.01, 8)))
def test_it_is_the_first_request_by_which_the_cost_is_saved(
    registration: float, saved: float
) -> None:
    found = break_even(registration, saved)
    counted = next(n for n in range(1, 10_000) if n * saved >= registration)
    assert found == counted


@given(SECONDS, st.floats(-40, 0))
def test_it_is_never_where_no_request_saves_anything(registration: float, saved: float) -> None:
    if saved < 0 or registration > 0:
        assert break_even(registration, saved) is None
    else:
        assert break_even(registration, saved) == 1


def test_an_expensive_registration_that_saves_little_is_counted_without_a_loop() -> None:
    assert break_even(1e9, 1e-3) == 10**12
