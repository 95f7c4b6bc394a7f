"""Cross-entropy of the three tasks."""

from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from ..text_ids import IGNORED


def asked_logits(logits: Tensor, labels: Tensor, task: str) -> tuple[Tensor, Tensor]:
    """Logits [M, C] float32 and targets [M] of all that the labels of `collate` ask for."""
    if task == "classification":
        return logits.float(), labels
    if task == "causal":
        logits, labels = logits[:, :-1], labels[:, 1:]
    asked = labels != IGNORED
    return logits[asked].float(), labels[asked]


def task_loss(
    outputs: Any,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    *,
    task: str,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy of a model's outputs, as `Trainer(compute_loss_func=)` calls it.

    The sum is divided by `num_items_in_batch`, the classes or tokens asked for in all batches of an
    optimizer step, where that is given.
    """
    logits, targets = asked_logits(outputs.logits, labels, task)
    total = cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)
    return total / (len(targets) if num_items_in_batch is None else num_items_in_batch)
