"""What a soak has seen: how often what happened, and what should not have."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_MOST_KEPT = 100


@dataclass
class Findings:
    """Counts of outcomes, and violations with the second in which each was seen."""

    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[dict[str, Any]] = field(default_factory=list)
    num_violations: int = 0
    began: float = field(default_factory=time.monotonic)

    def count(self, outcome: str) -> None:
        self.outcomes[outcome] += 1

    def violate(self, rule: str, **details: Any) -> None:
        """Notes that a rule was broken."""
        self.num_violations += 1
        if len(self.violations) < _MOST_KEPT:
            second = round(time.monotonic() - self.began, 1)
            self.violations.append({"rule": rule, "second": second, **details})
