"""How often calls are run and how their times are divided, with a device made up."""

import itertools

import pytest
import torch
from gistserve.bench.gpu import timing
from gistserve.bench.gpu.timing import CudaTimer, HostTimer


class Device:
    """Every run between two events takes `ms`, unless it is captured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ms: float) -> None:
        self.ms, self.replays, self.captures = ms, 0, True
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(timing, "_event", lambda: self)
        monkeypatch.setattr(timing, "_capture", self.capture)

    def record(self) -> None:
        pass

    def elapsed_time(self, stop: object) -> float:
        return self.ms

    def capture(self, calls: object) -> "Device":
        if not self.captures:
            raise RuntimeError("operation not permitted when stream is capturing")
        return self

    def replay(self) -> None:
        self.replays += 1


def test_a_graph_of_all_calls_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    device, count = Device(monkeypatch, ms=6.0), itertools.count()
    samples, method = CudaTimer(target_ms=60)([lambda: next(count)] * 3, method="graph")
    assert (method, samples) == ("graph", [2.0] * 10)
    assert device.replays == 12  # and one before, and one to estimate
    assert next(count) == 3  # each call once, before the graph is captured


def test_what_cannot_be_captured_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    device, count = Device(monkeypatch, ms=0.01), itertools.count()
    device.captures = False
    samples, method = CudaTimer()([lambda: next(count)], method="graph")
    assert (method, len(samples), next(count)) == ("events", 200, 203)


def test_long_calls_are_repeated_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    Device(monkeypatch, ms=1e6)
    assert len(CudaTimer()([lambda: None], method="events").samples_ms) == 5


def test_the_host_waits_after_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    Device(monkeypatch, ms=0.0)
    waits, calls = itertools.count(), itertools.count()
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: next(waits))
    samples, method = CudaTimer()([lambda: next(calls)] * 2, method="host")
    done = next(calls)
    assert (method, len(samples) + 4) == ("host", done)
    assert next(waits) == done - 1  # but once for both calls of the warm-up


def test_without_a_device_the_clock_counts() -> None:
    samples, method = HostTimer(repeats=3)([lambda: None])
    assert (method, len(samples)) == ("host", 3) and all(ms >= 0 for ms in samples)
