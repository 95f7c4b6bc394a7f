"""Measurements in one entry a load and server."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

MEASURES = ("output_throughput", "ttft_ms", "tpot_ms", "processor_ms_per_token")


def summarise(measurements: Sequence[dict[str, Any]], first: str) -> list[dict[str, Any]]:
    """Per concurrency and server: the spread of every measure, and of `first`'s ratio to it.

    A ratio is taken in every round, between measurements that followed each other, and its median
    is given with the least and the greatest: a busy machine slows both of a pair. Measurements
    that were refused count nowhere.
    """
    kept = [found for found in measurements if "servers" in found]
    entries = []
    for concurrency in sorted({found["concurrency"] for found in kept}):
        rounds = [found["servers"] for found in kept if found["concurrency"] == concurrency]
        for name in sorted(rounds[0], key=lambda name: (name != first, name)):
            entry: dict[str, Any] = {"concurrency": concurrency, "server": name}
            for measure in MEASURES:
                theirs = [servers[name][measure] for servers in rounds]
                ours = [servers[first][measure] for servers in rounds]
                entry[measure] = _spread(theirs)
                ratios = [_ratio(a, b) for a, b in zip(ours, theirs, strict=True)]
                entry[f"{measure}_ratio"] = None if name == first else _spread(ratios)
            entries.append(entry)
    return entries


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or not theirs else ours / theirs


def _spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"median": median(known), "least": min(known), "greatest": max(known), "rounds": known}
