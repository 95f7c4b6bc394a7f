"""Batches of equal sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class EngineCase:
    """So many sequences of a prompt of so many tokens."""

    batch: int
    context: int

    @property
    def prompt_tokens(self) -> int:
        return self.batch * self.context

    def __str__(self) -> str:
        return f"batch {self.batch}, context {self.context}"


def plan(
    batches: Sequence[int], contexts: Sequence[int], most_tokens: int
) -> tuple[list[EngineCase], list[EngineCase]]:
    """All pairs of both: those of at most so many prompt tokens together, and those of more."""
    cases = [EngineCase(batch, context) for context, batch in product(contexts, batches)]
    small = [case for case in cases if case.prompt_tokens <= most_tokens]
    return small, [case for case in cases if case not in small]
