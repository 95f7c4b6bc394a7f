"""How many rows of each source a batch holds, and which: pure functions of the step.

Rows are dealt by running totals: after t batches of B rows, sources 0..s together have had
floor(t * B * (w_0 + ... + w_s)) rows, computed in exact fractions. So at every step

- the total of every source is less than one row off its share,
- the replayed sources (listed first) together have floor or ceil of their share in every batch,

and the batch of step t depends on nothing but t: a resumed run needs no other state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import floor

import numpy as np


@dataclass(frozen=True)
class RowIndex:
    """The row `row` (0, 1, ...; endless) of the source number `source`."""

    source: int
    row: int


class Mixture:
    """Deals rows of several sources by their weights.

    weights: one for each source, summing to 1; replayed sources first. batch_size: rows of a batch
    over all processes. seed: of the order of rows inside a batch.
    """

    def __init__(self, weights: Sequence[Fraction], batch_size: int, seed: int = 0) -> None:
        if not weights or any(weight < 0 for weight in weights) or sum(weights) != 1:
            raise ValueError(f"weights must be at least 0 and sum to 1, got {list(weights)}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._upper = [sum(weights[: i + 1], Fraction(0)) for i in range(len(weights))]
        self._batch_size = batch_size
        self._seed = seed

    def totals(self, step: int) -> list[int]:
        """Rows of each source in all batches before the one of `step`."""
        rows = step * self._batch_size
        bounds = [0, *(floor(rows * upper) for upper in self._upper)]
        return [high - low for low, high in pairwise(bounds)]

    def counts(self, step: int) -> list[int]:
        """Rows of each source in the batch of `step` (0 is the first)."""
        before, after = self.totals(step), self.totals(step + 1)
        return [b - a for a, b in zip(before, after, strict=True)]

    def batch(self, step: int) -> list[RowIndex]:
        """The rows of the batch of `step` in their order; N processes take N equal parts of it."""
        first, counts = self.totals(step), self.counts(step)
        rows = [
            RowIndex(source, first[source] + i)
            for source, count in enumerate(counts)
            for i in range(count)
        ]
        order = np.random.default_rng([self._seed, step]).permutation(len(rows))
        return [rows[i] for i in order]


def mixture_weights(
    replay_ratio: float, replay: Sequence[float], new: Sequence[float]
) -> list[Fraction]:
    """Exact weights of replayed, then new sources.

    `replay` and `new` are the sources' relative shares within their group; the groups get
    `replay_ratio` and the rest. Decimals are taken as written: 0.05 is 1/20.
    """
    ratio = Fraction(str(replay_ratio))
    groups = ((ratio, replay), (1 - ratio, new))
    weights = []
    for whole, shares in groups:
        exact = [Fraction(str(share)) for share in shares]
        total = sum(exact, Fraction(0))
        if shares and total <= 0:
            raise ValueError(f"the shares of a group of sources must not all be 0: {list(shares)}")
        weights += [whole * share / total for share in exact]
    return weights
