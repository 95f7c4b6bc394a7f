"""What may wait for an engine, and when a refused client should come back."""

import pytest
from gistserve.server.api.admission import Admission
from gistserve.server.api.errors import ApiError
from hypothesis import given
from hypothesis import strategies as st


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def refused(admission: Admission, tokens: int) -> ApiError | None:
    try:
        admission.check(tokens)
    except ApiError as error:
        assert (error.status_code, error.code) == (429, "queue_full")
        return error
    return None


def test_places_are_bounded() -> None:
    admission = Admission(2, 1, None, 1)
    for _ in range(3):
        assert not refused(admission, 10**9)
        admission.enter(10**9)
    assert refused(admission, 1)
    admission.leave()
    assert not refused(admission, 1)


def test_waiting_tokens_are_bounded_and_computed_ones_no_longer_wait() -> None:
    admission = Admission(8, 8, 100, 1)
    assert not refused(admission, 500)  # nobody waits: it would never be shorter
    admission.enter(60)
    assert not refused(admission, 40)
    assert refused(admission, 41)
    admission.begin(60)
    assert not refused(admission, 41)
    assert (admission.active, admission.waiting_tokens) == (1, 0)


@given(
    running=st.integers(1, 8),
    active=st.integers(0, 40),
    gaps=st.lists(st.floats(0.01, 20.0), max_size=100),
)
def test_retry_after_is_the_time_until_ones_turn(
    running: int, active: int, gaps: list[float]
) -> None:
    clock = Clock()
    admission = Admission(running, 10**6, None, 7, clock)
    times = []
    for _ in range(active + len(gaps)):
        admission.enter(0)
    for gap in gaps:
        clock.now += gap
        times.append(clock.now)
        admission.leave()
    clock.now += 1.0
    recent = [t for t in times if t >= clock.now - 60.0][-64:]
    if not recent:
        assert admission.retry_after() == 7
        return
    turn = max(1, active - running + 1) * (clock.now - recent[0]) / len(recent)
    assert 1 <= admission.retry_after() <= 60
    assert admission.retry_after() == pytest.approx(min(max(turn, 1), 60), abs=1)


def test_an_idle_hour_does_not_slow_the_measured_rate() -> None:
    clock = Clock()
    admission = Admission(1, 4, None, 3, clock)
    admission.enter(0)
    admission.leave()
    clock.now += 3600
    assert admission.retry_after() == 3
