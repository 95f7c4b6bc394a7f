"""A soak in a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any


def report_lines(figures: dict[str, Any]) -> Iterator[str]:
    """What happened, and every kind of violation with its first case."""
    outcomes = ", ".join(f"{count} {name}" for name, count in figures["outcomes"].items())
    yield f"outcomes: {outcomes}"
    ends = Counter(life["ended_by"] for life in figures["lives"] if "ended_by" in life)
    yield f"servers: {len(figures['lives'])} ({', '.join(f'{n} {e}' for e, n in ends.items())})"
    memory = figures["memory"]
    if memory["is_flat"] is not None:
        yield (
            f"memory: {memory['rise_bytes'] / 2**20:+.1f} MiB in the longest life "
            f"({memory['bytes_per_second'] * 3600 / 2**20:+.1f} MiB an hour)"
        )
    health = figures["health_ms"]
    yield (
        f"/health: {health['p50']:.1f} ms median, {health['p99']:.1f} ms p99 "
        f"of {health['count']} calls under load"
    )
    rules = Counter(violation["rule"] for violation in figures["violations"])
    for rule, count in rules.items():
        first = next(v for v in figures["violations"] if v["rule"] == rule)
        details = {name: value for name, value in first.items() if name != "rule"}
        yield f"VIOLATION: {rule} ({count} times), first: {details}"
    if not figures["num_violations"]:
        yield "no violation"
