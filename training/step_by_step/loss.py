"""The loss of arXiv 2305.02301, equations 1 to 3."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..text_ids import IGNORED
from .tasks import TASKS


def task_tokens(labels: Tensor, tasks: Tensor) -> Tensor:
    """Tokens asked for in each task: int64 [2], of labels [R, T] in rows of tasks [R]."""
    counts = (labels != IGNORED).sum(1)
    return torch.zeros(len(TASKS), dtype=torch.int64, device=counts.device).index_add(
        0, tasks, counts
    )


def task_losses(logits: Tensor, labels: Tensor, tasks: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of each task over its own answer tokens: float32 [2].

    logits [R, T, V] at the places whose next token labels [R, T] has (`IGNORED`: none is asked);
    tasks [R]. Each sum is divided by `tokens` [2]: those of the whole batch that an optimizer step
    sees, of which these rows may be a part, so that the parts add up to the means. A task without
    tokens has loss 0.
    """
    asked = labels != IGNORED
    each = cross_entropy(logits[asked].float(), labels[asked], reduction="none")
    task_of_token = tasks[:, None].expand_as(labels)[asked]
    sums = torch.zeros(len(TASKS), device=each.device).index_add(0, task_of_token, each)
    return sums / tokens.clamp(min=1)
