"""Which settings were faster than those that are chosen, by how much, and everywhere?"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import geometric_mean

from .measurement import Measurement, describe
from .table import aligned
from .variants import CHOSEN

_BEST = 3


def sweep_table(measurements: Sequence[Measurement]) -> str:
    """The fastest settings of each case, then those that are fastest over all cases."""
    times: dict[str, dict[str, float]] = {}
    for m in measurements:
        of_case = times.setdefault(describe(m.case), {})
        if m.median_ms is not None:
            of_case[m.arm] = m.median_ms
    rows = [["case", "µs", "speed-up", "settings"]]
    for case, arms in times.items():
        best = sorted(arms, key=lambda name: arms[name])[:_BEST]
        shown = [CHOSEN] * (CHOSEN in arms) + [name for name in best if name != CHOSEN]
        rows += [_row(case if i == 0 else "", arms, name) for i, name in enumerate(shown)]
    for i, (name, speedup) in enumerate(overall(times)[:_BEST]):
        rows.append(["over all cases" if i == 0 else "", "", f"{speedup:.2f}x", name])
    return aligned(rows)


def overall(times: dict[str, dict[str, float]]) -> list[tuple[str, float]]:
    """Settings that were timed on every case, with their mean speed-up over those chosen."""
    cases = list(times.values())
    if not cases or not all(CHOSEN in arms for arms in cases):
        return []
    everywhere = set.intersection(*(set(arms) for arms in cases))
    speedups = [
        (name, geometric_mean(arms[CHOSEN] / arms[name] for arms in cases)) for name in everywhere
    ]
    return sorted(speedups, key=lambda entry: -entry[1])


def _row(case: str, arms: dict[str, float], name: str) -> list[str]:
    speedup = f"{arms[CHOSEN] / arms[name]:.2f}x" if CHOSEN in arms else "?"
    return [case, f"{arms[name] * 1e3:.1f}", speedup, name]
