"""Lengths of prompts and answers in tokens: fixed, or drawn from a distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .errors import LoadError

Kind = Literal["fixed", "uniform", "normal", "lognormal"]
FORMS = "N, uniform:LOW,HIGH, normal:MEAN,SD[,LOW,HIGH] or lognormal:MEDIAN,SIGMA[,LOW,HIGH]"
_LONGEST = 2**20


@dataclass(frozen=True)
class Lengths:
    """A distribution of token counts.

    Attributes:
        kind: ``uniform`` is over the whole numbers from `low` to `high`, both included; the normal
            and the lognormal are rounded and clipped to them.
        centre: the fixed length, the normal's mean, or the lognormal's median.
        spread: the normal's standard deviation in tokens, or that of the lognormal's logarithm.
        low, high: the limits.
    """

    kind: Kind
    centre: float
    spread: float = 0.0
    low: int = 1
    high: int = _LONGEST

    def sample(self, rng: np.random.Generator, count: int) -> list[int]:
        """`count` lengths, each drawn on its own."""
        if self.kind == "uniform":
            return [int(n) for n in rng.integers(self.low, self.high, count, endpoint=True)]
        if self.kind == "normal":
            drawn = rng.normal(self.centre, self.spread, count)
        elif self.kind == "lognormal":
            drawn = self.centre * np.exp(rng.normal(0.0, self.spread, count))
        else:
            drawn = np.full(count, self.centre)
        return [int(n) for n in np.clip(np.rint(drawn), self.low, self.high)]

    def __str__(self) -> str:
        if self.kind == "fixed":
            return f"{self.centre:g}"
        if self.kind == "uniform":
            return f"uniform:{self.low},{self.high}"
        limits = f",{self.low},{self.high}" if (self.low, self.high) != (1, _LONGEST) else ""
        return f"{self.kind}:{self.centre:g},{self.spread:g}{limits}"


def parse_lengths(text: str) -> Lengths:
    """Read one of the `FORMS`.

    Raises:
        LoadError: another form, a length below 1, a negative spread, or limits in the wrong order.
    """
    kind, colon, rest = text.strip().partition(":")
    try:
        numbers = [float(part) for part in (rest if colon else kind).split(",")]
        lengths = _lengths(kind if colon else "fixed", numbers)
    except (ValueError, OverflowError) as error:
        raise LoadError(f"{text!r} is no distribution of lengths: {error}. Use {FORMS}.") from error
    return lengths


def _lengths(kind: str, numbers: list[float]) -> Lengths:
    if kind == "fixed" and len(numbers) == 1:
        return Lengths("fixed", _whole(numbers[0]))
    if kind == "uniform" and len(numbers) == 2:
        low, high = _limits(numbers)
        return Lengths("uniform", (low + high) / 2, low=low, high=high)
    if kind in ("normal", "lognormal") and len(numbers) in (2, 4):
        centre, spread = numbers[:2]
        if not (1 <= centre <= _LONGEST and 0 <= spread <= _LONGEST):
            raise ValueError(f"its centre must be 1 to {_LONGEST} and its spread not negative")
        low, high = _limits(numbers[2:]) if numbers[2:] else (1, _LONGEST)
        return Lengths("normal" if kind == "normal" else "lognormal", centre, spread, low, high)
    raise ValueError("it has none of the known forms")


def _limits(numbers: list[float]) -> tuple[int, int]:
    low, high = _whole(numbers[0]), _whole(numbers[1])
    if low > high:
        raise ValueError(f"{low} is above {high}")
    return low, high


def _whole(number: float) -> int:
    if not 1 <= number <= _LONGEST or number != int(number):
        raise ValueError(f"{number:g} is no whole number from 1 to {_LONGEST}")
    return int(number)
