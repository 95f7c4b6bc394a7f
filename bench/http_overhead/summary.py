"""Rounds in one row an arm."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from ..load.percentiles import summary
from .rounds import DIRECT, HTTP


def summarise(
    rounds: Sequence[dict[str, Any]], health_ms: dict[str, list[float]] | None
) -> dict[str, Any]:
    """Medians over the rounds, with the least and the greatest.

    ``throughput_ratio`` is HTTP's output tokens a second over those of the engine driven directly,
    taken in every round, between measurements that followed each other; ``processor_ratio`` is the
    latter's processor time a token over that of the server, which neither the client nor other
    processes take part in. ``processor_us`` are microseconds of processor time an output token, of
    the process that the engine runs in, and of the client.
    """
    return {
        "throughput_ratio": _spread(
            [_throughput(r, HTTP) / _throughput(r, DIRECT) for r in rounds]
        ),
        "processor_ratio": _spread([_processor(r, DIRECT) / _processor(r, HTTP) for r in rounds]),
        "output_throughput": {
            arm: _spread([_throughput(r, arm) for r in rounds]) for arm in (DIRECT, HTTP)
        },
        "processor_us": {
            DIRECT: _spread([_processor(r, DIRECT) for r in rounds]),
            HTTP: _spread([_processor(r, HTTP) for r in rounds]),
            "client": _spread([_processor(r, HTTP, "client_processor_seconds") for r in rounds]),
        },
        "ttft_ms": {
            arm: _spread([float(r[arm]["ttft_ms"]["median"]) for r in rounds])
            for arm in (DIRECT, HTTP)
        },
        "health_ms": health_ms
        and {name: summary(times, scale=1.0) for name, times in health_ms.items()},
    }


def _throughput(found: dict[str, Any], arm: str) -> float:
    return float(found[arm]["output_throughput"])


def _processor(found: dict[str, Any], arm: str, name: str = "processor_seconds") -> float:
    """Microseconds a token."""
    return 1e6 * float(found[arm][name]) / float(found[arm]["output_tokens"])


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": median(values),
        "least": min(values),
        "greatest": max(values),
        "rounds": list(values),
    }
