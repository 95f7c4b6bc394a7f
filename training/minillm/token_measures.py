"""Log-probabilities and divergences of tokens without logits of all positions at once."""

from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .split_model import SplitModel

Divergence = Literal["reverse", "forward"]

_CHUNK_ELEMENTS = 2**24  # logits held at once; several tensors of this size live while one is made


def token_log_probs(
    model: SplitModel, states: Tensor, targets: Tensor, vocabulary: int | None = None
) -> Tensor:
    """log q of `targets` [N] int64 by hidden states [N, H]: [N], in nats, in at least float32.

    Differentiable; logits live for some rows at a time, and are made again in the backward pass.
    `vocabulary`: the distribution is over the head's first so many rows.
    """

    def measure(states: Tensor, targets: Tensor) -> Tensor:
        return _at(_log_probs(model, states, vocabulary), targets)

    chunks = _chunks(model, vocabulary, states, targets)
    return torch.cat([_recomputed(measure, *chunk) for chunk in chunks])


def compare_tokens(
    student: SplitModel,
    states: Tensor,
    teacher: SplitModel,
    teacher_states: Tensor,
    targets: Tensor,
    *,
    divergence: Divergence,
) -> tuple[Tensor, Tensor]:
    """`token_log_probs` of the student [N], and how far it is from the teacher [N], in nats.

    divergence: "reverse" is KL[q || p] of student q and teacher p, exact over the vocabulary that
    both have (MiniLLM's -E_{y_t~q}[r_t], arXiv 2306.08543, eq. 3); "forward" is KL[p || q].
    states [N, H] and teacher_states [N, H'] predict `targets` [N]. Memory as in `token_log_probs`.
    """
    shared = shared_vocabulary(student, teacher)

    def measure(states: Tensor, teacher_states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        ours = _log_probs(student, states, shared)
        with torch.no_grad():
            theirs = _log_probs(teacher, teacher_states, shared)
        if divergence == "reverse":
            distance = (ours.exp() * (ours - theirs)).sum(-1)
        else:
            distance = (theirs.exp() * (theirs - ours)).sum(-1)
        return _at(ours, targets), distance

    chunks = _chunks(student, shared, states, teacher_states, targets)
    parts = [_recomputed(measure, *chunk) for chunk in chunks]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def shared_vocabulary(student: SplitModel, teacher: SplitModel) -> int:
    """Rows that both heads have: one of them may be padded further."""
    return min(student.vocabulary, teacher.vocabulary)


def _log_probs(model: SplitModel, states: Tensor, vocabulary: int | None) -> Tensor:
    return model.logits(states)[..., :vocabulary].log_softmax(-1)


def _at(log_probs: Tensor, targets: Tensor) -> Tensor:
    return log_probs.gather(-1, targets[:, None])[:, 0]


def _chunks(model: SplitModel, vocabulary: int | None, *tensors: Tensor) -> list[tuple]:
    rows = max(1, _CHUNK_ELEMENTS // (vocabulary or model.vocabulary))
    return list(zip(*(tensor.split(rows) for tensor in tensors), strict=True))


def _recomputed(function, *tensors: Tensor):  # type: ignore[no-untyped-def]
    return checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)
