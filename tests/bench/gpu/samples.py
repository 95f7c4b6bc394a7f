"""Measurements and clocks made up for tests."""

from __future__ import annotations

from collections.abc import Sequence

from gistserve.bench.gpu.measurement import Case, Measurement
from gistserve.bench.gpu.timing import Call, Method, Timing


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeTimer:
    """Runs each call once, and says it took 2, 1 and 4 milliseconds."""

    def __init__(self) -> None:
        self.methods: list[Method] = []

    def __call__(self, calls: Sequence[Call], *, method: Method = "graph") -> Timing:
        for call in calls:
            call()
        self.methods.append(method)
        return Timing([2.0, 1.0, 4.0], method)


def measured(
    section: str, arm: str, case: Case, ms: float | None, *, floor_bytes: float = 0.0
) -> Measurement:
    """A measurement of one sample, or one that was not reached."""
    result = Measurement(section, arm, case, "measured", floor_bytes=floor_bytes)
    if ms is None:
        result.status = "not reached"
    else:
        result.samples_ms = [ms]
    return result
