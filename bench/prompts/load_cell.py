"""One measurement: an arm, a concurrency, and requests that are answered in a closed loop."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any

from ..load.client import LoadClient
from ..load.loops import closed_loop
from ..load.workload import LoadRequest
from .arm import Arm, check_hits


async def load_cell(
    client: LoadClient,
    arm: Arm,
    requests: Sequence[LoadRequest],
    concurrency: int,
    kept: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Answer all requests, so many at a time; figures and samples for a result file.

    `kept` and what is raised are those of `check_hits`.
    """
    start = perf_counter()
    samples = await closed_loop(client, requests, concurrency, lambda _: None)
    duration = perf_counter() - start
    check_hits(arm, samples, kept)
    return {
        "duration_s": round(duration, 4),
        "output_throughput": sum(sample.output_tokens or 0 for sample in samples) / duration,
        "ttft_ms": [_ms(sample.ttft) for sample in samples],
        "tpot_ms": [_ms(sample.tpot) for sample in samples],
        "e2el_ms": [_ms(sample.e2el) for sample in samples],
        "prompt_tokens": [sample.prompt_tokens for sample in samples],
        "cached_tokens": [sample.cached_tokens for sample in samples],
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 3)


def middle(cell: dict[str, Any], measure: str) -> float | None:
    """The median of one of a cell's samples in milliseconds; None where there is none."""
    known = [value for value in cell[measure] if value is not None]
    return median(known) if known else None
