"""The batch of every step: a function of the step, whatever the number of processes."""

from collections.abc import Sequence

import numpy as np

from .causal import Batch
from .example import IGNORED, Example
from .mixing import Mixture, RowIndex
from .objective import Objective
from .packing import PackedRows


class Batches:
    """Rows of several sources, mixed and made into tensors for one objective.

    sources: in the order of the mixture's weights. seed: of what the objective draws.
    """

    def __init__(
        self, mixture: Mixture, sources: Sequence[PackedRows], objective: Objective, seed: int
    ) -> None:
        self._mixture = mixture
        self._sources = sources
        self._objective = objective
        self._seed = seed

    def batch(self, step: int) -> Batch:
        """The whole batch of `step` (0 is the first), rows of all processes included."""
        places = self._mixture.batch(step)
        rows = [self._row(place, [self._seed, step, i]) for i, place in enumerate(places)]
        return self._objective.batch(rows)

    def _row(self, place: RowIndex, seed: list[int]) -> list[Example]:
        generator = np.random.default_rng(seed)
        pieces = self._sources[place.source].row(place.row)
        return [self._objective.example(piece, generator) for piece in pieces]


def num_labels(batch: Batch) -> int:
    """Tokens that are to be predicted."""
    return int((batch["labels"] != IGNORED).sum())


def part(batch: Batch, start: int, end: int) -> Batch:
    """Rows `start` to `end` of a batch."""
    return {name: tensor[start:end] for name, tensor in batch.items()}
