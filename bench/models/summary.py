"""Rounds in one row a model."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any


def summarise(rounds: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Medians over the rounds by model and arm, and the ratio to the first of `names`.

    The ratio is taken in every round, between measurements that followed each other, and its
    median is given with the least and the greatest: a busy machine slows both of a pair.
    """
    return {name: {arm: _arm(rounds, arm, name, names[0]) for arm in rounds[0]} for name in names}


def _arm(rounds: Sequence[dict[str, Any]], arm: str, name: str, first: str) -> dict[str, Any]:
    mine = [found[arm][name] for found in rounds]
    theirs = [found[arm][first] for found in rounds]
    return {
        "output_throughput": _spread([found["output_throughput"] for found in mine]),
        "throughput_ratio": _spread(
            [
                _ratio(a["output_throughput"], b["output_throughput"])
                for a, b in _pairs(mine, theirs)
            ]
        ),
        "ttft_ms": _spread([median(found["ttft_ms"]) for found in mine]),
        "ttft_ratio": _spread(
            [_ratio(median(a["ttft_ms"]), median(b["ttft_ms"])) for a, b in _pairs(mine, theirs)]
        ),
        "tpot_ms": _spread([median(f["tpot_ms"]) if f["tpot_ms"] else None for f in mine]),
    }


def _pairs(mine: Sequence[Any], theirs: Sequence[Any]) -> Sequence[tuple[Any, Any]]:
    return list(zip(mine, theirs, strict=True))


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or not theirs else ours / theirs


def _spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"median": median(known), "least": min(known), "greatest": max(known), "rounds": known}
