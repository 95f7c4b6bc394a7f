"""Service level objectives, for goodput."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .errors import LoadError
from .sample import Sample

MEASURES = ("ttft", "tpot", "e2el")


@dataclass(frozen=True)
class Slo:
    """Most milliseconds for measures of a request; a measure that is not named is free."""

    limits: tuple[tuple[str, float], ...]

    def is_met(self, sample: Sample) -> bool:
        """Whether the request was answered and within every limit.

        An answer of one token has no TPOT and meets every limit of it.
        """
        return sample.ok and all(
            1e3 * (getattr(sample, name) or 0.0) <= limit for name, limit in self.limits
        )


def parse_slo(texts: Iterable[str]) -> Slo | None:
    """Read limits such as "ttft:200" (milliseconds); None of none.

    Raises:
        LoadError: an unknown measure, or a limit that is no number above 0.
    """
    limits = {}
    for text in texts:
        name, _, number = text.partition(":")
        try:
            limit = float(number)
        except ValueError:
            limit = 0.0
        if name not in MEASURES or not 0 < limit < float("inf"):
            raise LoadError(
                f"{text!r} is no objective. Use one of {', '.join(MEASURES)} with milliseconds, "
                "as in ttft:200."
            )
        limits[name] = limit
    return Slo(tuple(limits.items())) if limits else None
