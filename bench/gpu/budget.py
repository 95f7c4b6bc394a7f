"""A fixed time, shared out among sections that run one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Clock = Callable[[], float]


@dataclass(frozen=True)
class Deadline:
    """A moment on a clock, in its seconds."""

    at: float
    clock: Clock = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Clock = time.monotonic) -> Deadline:
        """So many seconds from now."""
        return cls(clock() + seconds, clock)

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.at - self.clock())

    @property
    def reached(self) -> bool:
        return self.clock() >= self.at


class Budget:
    """Shares out ``limit`` seconds, from now on.

    A section must end when its share and those before it are over, so that what one leaves falls
    to the next, and one that takes too long takes nothing from them.

    Args:
        limit: seconds for all sections.
        shares: section to its part; only their ratios count. In the order of running.
        clock: seconds that only grow.
    """

    def __init__(
        self, limit: float, shares: Mapping[str, float], clock: Clock = time.monotonic
    ) -> None:
        start, total = clock(), sum(shares.values())
        self._deadlines: dict[str, Deadline] = {}
        used = 0.0
        for name, share in shares.items():
            used += share
            self._deadlines[name] = Deadline(start + limit * used / total, clock)

    def deadline(self, section: str) -> Deadline:
        """When the section must end."""
        return self._deadlines[section]
