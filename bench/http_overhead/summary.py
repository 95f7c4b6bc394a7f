"""Rounds in one row an arm."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from ..load.percentiles import summary
from .rounds import DIRECT


def summarise(
    rounds: Sequence[dict[str, Any]], health_ms: dict[str, list[float]] | None
) -> dict[str, Any]:
    """Medians over the rounds, with the least and the greatest, by arm.

    ``throughput_ratio`` is the output tokens a second of an arm over HTTP over those of the engine
    driven directly, in the same round; ``processor_ratio`` is the latter's processor time a token
    over that of the server, which neither the client nor other processes take part in.
    ``processor_us`` are microseconds of processor time an output token, of the process that the
    engine runs in; ``client_processor_us`` those of the client.
    """
    over_http = [arm for arm in rounds[0] if arm != DIRECT]
    return {
        "throughput_ratio": {
            arm: _spread([_throughput(r, arm) / _throughput(r, DIRECT) for r in rounds])
            for arm in over_http
        },
        "processor_ratio": {
            arm: _spread([_processor(r, DIRECT) / _processor(r, arm) for r in rounds])
            for arm in over_http
        },
        "output_throughput": {
            arm: _spread([_throughput(r, arm) for r in rounds]) for arm in rounds[0]
        },
        "processor_us": {arm: _spread([_processor(r, arm) for r in rounds]) for arm in rounds[0]},
        "client_processor_us": {
            arm: _spread([_processor(r, arm, "client_processor_seconds") for r in rounds])
            for arm in over_http
        },
        "ttft_ms": {
            arm: _spread([float(r[arm]["ttft_ms"]["median"]) for r in rounds]) for arm in rounds[0]
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
