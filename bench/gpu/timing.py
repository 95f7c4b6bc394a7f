"""How long calls take: on the device without the host, or on the host's clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch

Call = Callable[[], Any]
"""One run over one set of inputs; several of them rotate over more memory than the L2 holds."""

Method = Literal["graph", "events", "host"]


class Timing(NamedTuple):
    """Milliseconds a call, one entry a repetition, and how they were taken."""

    samples_ms: list[float]
    method: Method


class Timer(Protocol):
    """Times calls that were run before, so that nothing is compiled in the samples."""

    def __call__(self, calls: Sequence[Call], *, method: Method = "graph") -> Timing: ...


class CudaTimer:
    """Times on a CUDA device.

    Method ``graph`` captures the calls in one CUDA graph, as a decode step runs them, and falls
    back to ``events`` where a call cannot be captured. ``host`` waits for the device after every
    call.

    Args:
        target_ms: time to spend on the repetitions of one measurement.
        host_target_ms: the same where the host's clock counts, which is less steady.
    """

    def __init__(self, target_ms: float = 60.0, host_target_ms: float = 250.0) -> None:
        self._target_ms = target_ms
        self._host_target_ms = host_target_ms

    def __call__(self, calls: Sequence[Call], *, method: Method = "graph") -> Timing:
        for call in calls:
            call()
        torch.cuda.synchronize()
        if method == "host":
            return Timing(self._host(calls), "host")
        if method == "graph":
            try:
                graph = _capture(calls)
            except RuntimeError:
                torch.cuda.synchronize()
            else:
                return Timing(self._device(graph.replay, len(calls)), "graph")
        return Timing(self._device(lambda: _run(calls), len(calls)), "events")

    def _device(self, run: Call, calls: int) -> list[float]:
        run()
        repeats = _repeats(self._target_ms, _between_events(run))
        pairs = [(_event(), _event()) for _ in range(repeats)]
        for start, stop in pairs:
            start.record()
            run()
            stop.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(stop) / calls for start, stop in pairs]

    def _host(self, calls: Sequence[Call]) -> list[float]:
        repeats = _repeats(self._host_target_ms, sum(_on_host(call) for call in calls))
        return [_on_host(call) for _ in range(repeats) for call in calls]


class HostTimer:
    """Times on the host's clock alone, for trying the script where there is no CUDA device."""

    def __init__(self, repeats: int = 1) -> None:
        self._repeats = repeats

    def __call__(self, calls: Sequence[Call], *, method: Method = "graph") -> Timing:
        samples = []
        for _ in range(self._repeats):
            start = time.perf_counter()
            _run(calls)
            samples.append((time.perf_counter() - start) * 1e3 / len(calls))
        return Timing(samples, "host")


def _repeats(target_ms: float, estimate_ms: float) -> int:
    return int(min(200, max(5, target_ms / max(estimate_ms, 1e-3))))


def _run(calls: Sequence[Call]) -> None:
    for call in calls:
        call()


def _capture(calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _run(calls)
    return graph


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


def _between_events(run: Call) -> float:
    start, stop = _event(), _event()
    start.record()
    run()
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop)


def _on_host(call: Call) -> float:
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3
