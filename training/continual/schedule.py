"""Learning-rate schedules of continual pre-training, as pure functions of the step.

From Ibrahim et al., *Simple and Scalable Strategies to Continually Pre-train Large Language
Models*, 2024 (arXiv 2403.08763). `rate(t)` is the learning rate of the update that ends at step t,
1 <= t <= total steps; the functions are defined and continuous for every real t in between, so that
phases meet. They carry no state: resuming at step t is evaluating them at t.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

Shape = Literal["cosine", "inverse_sqrt"]

_STEEPNESS = 10.0


class Schedule(Protocol):
    """A learning rate for every step."""

    def rate(self, step: float) -> float:
        """Learning rate of the update that ends at `step`."""


@dataclass(frozen=True)
class CosineSchedule:
    """Linear (re-)warming to `peak`, then (re-)decay along a half cosine to `floor` at `total`.

    rate(t) = peak * t / warmup for t < warmup, else
    floor + (peak - floor) / 2 * (1 + cos(pi * (t - warmup) / (total - warmup))).
    """

    total: int
    warmup: int
    peak: float
    floor: float

    def __post_init__(self) -> None:
        _check_phases(warmup=self.warmup, total=self.total)
        _check_rates(self.floor, self.peak)

    def rate(self, step: float) -> float:
        if step < self.warmup:
            return self.peak * step / self.warmup
        done = _share(step, self.warmup, self.total)
        return self.floor + (self.peak - self.floor) / 2 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class ConstantSchedule:
    """Linear warming to `peak`, then `peak` for ever."""

    total: int
    warmup: int
    peak: float

    def __post_init__(self) -> None:
        _check_phases(warmup=self.warmup, total=self.total)
        _check_rates(self.peak, self.peak)

    def rate(self, step: float) -> float:
        return self.peak * min(1.0, step / self.warmup) if self.warmup else self.peak


@dataclass(frozen=True)
class InfiniteSchedule:
    """Warm-up, cooldown to a plateau, the plateau, and an anneal when a checkpoint is to ship.

    With x the share of its phase that is done:

    - t < warmup: peak * x;
    - t < cooldown_end: cosine, plateau + (peak - plateau) / 2 * (1 + cos(pi x)), or inverse_sqrt,
      peak + (plateau - peak) * h(x) / h(1) with h(x) = 1 / sqrt(1 + 10 x) - 1;
    - t <= anneal_start: plateau;
    - then exponential: plateau * (floor / plateau) ** x, which is `floor` at `total`.

    The weights at `anneal_start` are what the next stage starts from. That stage has
    warmup = cooldown_end = 0: it begins on the plateau, without re-warming.
    """

    total: int
    warmup: int
    cooldown_end: int
    anneal_start: int
    peak: float
    plateau: float
    floor: float
    shape: Shape = "cosine"

    def __post_init__(self) -> None:
        _check_phases(
            warmup=self.warmup,
            cooldown_end=self.cooldown_end,
            anneal_start=self.anneal_start,
            total=self.total,
        )
        _check_rates(self.floor, self.plateau, self.peak)

    def rate(self, step: float) -> float:
        if step < self.warmup:
            return self.peak * step / self.warmup
        if step < self.cooldown_end:
            return self._cooled(_share(step, self.warmup, self.cooldown_end))
        if step <= self.anneal_start:
            return self.plateau
        done = _share(step, self.anneal_start, self.total)
        return self.plateau * (self.floor / self.plateau) ** done

    def _cooled(self, done: float) -> float:
        if self.shape == "cosine":
            return self.plateau + (self.peak - self.plateau) / 2 * (1 + math.cos(math.pi * done))
        return self.peak + (self.plateau - self.peak) * _fall(done) / _fall(1.0)


def _fall(done: float) -> float:
    return 1 / math.sqrt(1 + _STEEPNESS * done) - 1


def _share(step: float, start: int, end: int) -> float:
    return min(1.0, (step - start) / (end - start)) if end > start else 1.0


def _check_phases(**ends: int) -> None:
    """The phases' ends must follow each other."""
    names, steps = list(ends), list(ends.values())
    if steps[0] < 0 or steps[-1] < 1:
        raise ValueError(f"a schedule needs at least one step and no negative phase, got {ends}")
    for name, step, next_name, following in zip(names, steps, names[1:], steps[1:], strict=False):
        if step > following:
            raise ValueError(
                f"{name} ends at step {step}, after {next_name} at step {following}: shorten it"
            )


def _check_rates(*rising: float) -> None:
    if rising[0] <= 0 or list(rising) != sorted(rising):
        raise ValueError(
            "learning rates must be above 0 and not fall from minimum over plateau to maximum, "
            f"got {', '.join(f'{rate:g}' for rate in rising)}"
        )
