"""Loss on held-out documents of every source."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator

from .batches import num_labels, part
from .causal import Batch
from .example import IGNORED
from .loss import summed_loss
from .objective import Objective
from .packing import PackedRows
from .tokens import TokenStoreError

Group = Literal["old", "new"]


@dataclass(frozen=True)
class HeldOut:
    """One source's validation rows as a single batch."""

    batch: Batch
    group: Group


def held_out(rows: PackedRows, group: Group, objective: Objective, limit: int) -> HeldOut:
    """The first `limit` rows of a source, at most one epoch of it.

    TokenStoreError for a source that does not fill one row.
    """
    count = min(limit, rows.rows_per_epoch)
    if count < 1:
        raise TokenStoreError(
            f"validation source {rows.store.manifest.source} has {rows.store.tokens} tokens, less "
            f"than one row of {rows.length}: give it more text, or lower sequence_length"
        )
    generator = np.random.default_rng(0)
    pieces = [rows.row(i) for i in range(count)]
    examples = [[objective.example(piece, generator) for piece in row] for row in pieces]
    return HeldOut(objective.batch(examples), group)


class Evaluator:
    """Mean loss in nats a token of each held-out source, of each group, and of both groups."""

    def __init__(
        self,
        sources: Mapping[str, HeldOut],
        objective: Objective,
        accelerator: Accelerator,
        rows: int,
    ) -> None:
        self._sources = sources
        self._objective = objective
        self._accelerator = accelerator
        self._rows = rows

    def run(self, model: Any) -> dict[str, Any]:
        """{"sources": {name: loss}, "old": ..., "new": ..., "average": ...} as far as measured."""
        was_training = model.training
        model.eval()
        losses = {name: self._loss(model, source.batch) for name, source in self._sources.items()}
        model.train(was_training)
        result: dict[str, Any] = {"sources": losses}
        for group in ("old", "new"):
            own = [losses[name] for name, source in self._sources.items() if source.group == group]
            if own:
                result[group] = sum(own) / len(own)
        if "old" in result and "new" in result:
            result["average"] = (result["old"] + result["new"]) / 2
        return result

    @torch.no_grad()
    def _loss(self, model: Any, batch: Batch) -> float:
        """Every process takes its rows of each chunk; all run equally many forward passes."""
        world, rank = self._accelerator.num_processes, self._accelerator.process_index
        total = torch.zeros((), device=self._accelerator.device)
        for start in range(0, len(batch["labels"]), self._rows * world):
            own = part(batch, start + rank * self._rows, start + (rank + 1) * self._rows)
            if not len(own["labels"]):
                own = part(batch, 0, 1)
                own["labels"] = torch.full_like(own["labels"], IGNORED)
            on_device = {name: tensor.to(total.device) for name, tensor in own.items()}
            logits = self._objective.logits(model, on_device)
            total += summed_loss(logits, on_device["labels"])
        summed: torch.Tensor = self._accelerator.reduce(total, "sum")
        return float(summed) / max(1, num_labels(batch))
