"""One load of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import LoadError


@dataclass(frozen=True)
class Point:
    """One load: a closed loop of so many requests at a time, or an open loop of a rate a second."""

    concurrency: int | None = None
    rate: float | None = None
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("rate", self.rate), ("burstiness", self.burstiness)):
            if value is not None and not 0 < value < float("inf"):
                raise LoadError(f"{name} {value:g} must be above 0.")

    def __str__(self) -> str:
        if self.concurrency is not None:
            return f"{self.concurrency} at a time"
        return f"{self.rate:g} a second"

    def facts(self) -> dict[str, Any]:
        if self.concurrency is not None:
            return {"loop": "closed", "concurrency": self.concurrency}
        return {"loop": "open", "rate": self.rate, "burstiness": self.burstiness}


def sweep(
    concurrencies: Sequence[int], rates: Sequence[float], burstiness: float
) -> tuple[Point, ...]:
    """The points asked for, closed loops first; one and eight at a time if none are.

    Raises:
        LoadError: a rate or burstiness that is not above 0.
    """
    if not concurrencies and not rates:
        concurrencies = (1, 8)
    closed = [Point(concurrency=concurrency) for concurrency in concurrencies]
    return (*closed, *(Point(rate=rate, burstiness=burstiness) for rate in rates))
