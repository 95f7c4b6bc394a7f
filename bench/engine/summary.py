"""Rounds in one row a case and phase."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

_FIGURES = (
    "seconds",
    "tokens_per_second",
    "bytes",
    "flops",
    "share_of_bandwidth",
    "share_of_matmul",
)


def summarise(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds with the least and the greatest.

    A share is taken in every round, against what the machine reached in that round.
    """
    by_case = zip(*(found["rows"] for found in rounds), strict=True)
    return {
        "bandwidth": _spread([found["bandwidth"] for found in rounds]),
        "matmul_rate": _spread([found["matmul_rate"] for found in rounds]),
        "rows": [
            {name: rows[0][name] for name in ("phase", "batch", "context")}
            | {name: _spread([row[name] for row in rows]) for name in _FIGURES}
            for rows in by_case
        ],
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "least": min(values), "greatest": max(values)}
