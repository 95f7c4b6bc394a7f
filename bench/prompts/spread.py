"""Rounds of one figure in a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any


def spread(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Median, least, greatest and all of the values that are known; None of none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"median": median(known), "least": min(known), "greatest": max(known), "rounds": known}


def ratios(ours: Sequence[float | None], theirs: Sequence[float | None]) -> dict[str, Any] | None:
    """The spread of ours / theirs, pair by pair."""
    return spread(None if a is None or not b else a / b for a, b in zip(ours, theirs, strict=True))
