"""The measurements for people: one line a case, one column an arm."""

from __future__ import annotations

from collections.abc import Sequence

from .floor import Ceilings
from .measurement import Measurement, describe
from .standards import Verdict

_WORDS = {
    "wrong": "WRONG",
    "failed": "failed",
    "crashed": "CRASHED",
    "not reached": "not reached",
}


def section_table(
    measurements: Sequence[Measurement], verdicts: Sequence[Verdict], ceilings: Ceilings
) -> str:
    """Microseconds a call (median) and, in brackets, the floor's share of that.

    The last column holds the figures that a standard speaks of.
    """
    arms = list(dict.fromkeys(m.arm for m in measurements))
    cases = list(dict.fromkeys(describe(m.case) for m in measurements))
    cells = {(describe(m.case), m.arm): _cell(m, ceilings) for m in measurements}
    rows = [["", *arms, "standard"]]
    for case in cases:
        judged = [_verdict(v) for v in verdicts if describe(v.case) == case]
        rows.append([case, *(cells.get((case, arm), "") for arm in arms), "; ".join(judged)])
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return aligned(rows)


def notes(measurements: Sequence[Measurement]) -> list[str]:
    """What went wrong, one line for each reason, with the cases that it befell."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for m in measurements:
        if m.note and m.status != "not reached":
            reasons.setdefault((m.arm, m.note), []).append(describe(m.case))
    return [
        f"{arm}: {note} ({cases[0]}{f' and {len(cases) - 1} more' if len(cases) > 1 else ''})"
        for (arm, note), cases in reasons.items()
    ]


def standards_table(verdicts: Sequence[Verdict]) -> str:
    """Each standard with how many cases pass, and the worst of its figures."""
    rows = [["standard", "passed", "worst"]]
    for standard in dict.fromkeys(v.standard for v in verdicts):
        ours = [v for v in verdicts if v.standard == standard]
        values = [v.value for v in ours if v.value is not None]
        passed = sum(v.outcome == "pass" for v in ours)
        worst = f"{min(values):.2f} of {ours[0].wanted:g}" if values else "not measured"
        rows.append([standard, f"{passed} of {len(ours)}", worst])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _cell(measurement: Measurement, ceilings: Ceilings) -> str:
    median = measurement.median_ms
    if median is None:
        return _WORDS[measurement.status]
    floor = ceilings.floor_ms(measurement)
    share = f" ({floor / median:4.0%})" if floor is not None else ""
    return f"{median * 1e3:.1f}{share}"


def _verdict(verdict: Verdict) -> str:
    value = "?" if verdict.value is None else f"{verdict.value:.2f}"
    return f"{value} of {verdict.wanted:g} {verdict.outcome}"
