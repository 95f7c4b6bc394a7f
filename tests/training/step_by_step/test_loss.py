"""The loss against its formula, in one batch and in parts."""

import pytest
import torch
from gistserve.training.step_by_step.loss import task_losses, task_tokens
from gistserve.training.text_ids import IGNORED
from torch import Tensor


def batch(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [6, 5, 7] in float64, labels with holes, tasks of either kind."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 5, 7, generator=random, dtype=torch.float64)
    labels = torch.randint(0, 7, (6, 5), generator=random)
    labels[torch.rand(6, 5, generator=random) < 0.4] = IGNORED
    labels[:, 0] = 1  # every row asks for something
    return logits, labels, torch.tensor([0, 1, 0, 1, 1, 0])


def by_hand(logits: Tensor, labels: Tensor, tasks: Tensor) -> list[float]:
    """Mean negative log-probability of each task's tokens, one token at a time."""
    found: list[list[float]] = [[], []]
    for row in range(len(labels)):
        for column in range(labels.shape[1]):
            label = int(labels[row, column])
            if label != IGNORED:
                scores = logits[row, column]
                found[int(tasks[row])].append(float(scores.logsumexp(0) - scores[label]))
    return [sum(values) / len(values) for values in found]


@pytest.mark.parametrize("seed", range(3))
def test_each_task_has_the_mean_over_its_own_tokens(seed: int) -> None:
    logits, labels, tasks = batch(seed)
    losses = task_losses(logits, labels, tasks, task_tokens(labels, tasks))
    assert losses.tolist() == pytest.approx(by_hand(logits, labels, tasks), rel=1e-5)


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_parts_of_a_batch_add_up_to_the_whole(cut: int) -> None:
    logits, labels, tasks = batch(5)
    tokens = task_tokens(labels, tasks)
    parts = sum(
        task_losses(logits[rows], labels[rows], tasks[rows], tokens)
        for rows in (slice(0, cut), slice(cut, 6))
    )
    assert parts.tolist() == pytest.approx(by_hand(logits, labels, tasks), rel=1e-5)  # type: ignore[union-attr]


def test_a_task_without_tokens_costs_nothing() -> None:
    logits, labels, tasks = batch(1)
    rows = tasks == 0
    logits = logits[rows].requires_grad_()
    tokens = task_tokens(labels[rows], tasks[rows])
    assert tokens.tolist() == [int((labels[rows] != IGNORED).sum()), 0]
    losses = task_losses(logits, labels[rows], tasks[rows], tokens)
    assert losses[1].item() == 0.0
    losses.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
