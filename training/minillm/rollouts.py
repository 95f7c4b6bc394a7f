"""Responses that a student is trained on, with what is known of their tokens."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from ..generate import generate, until_end
from ..padding import pad_left, pad_rows
from .objective import importance_weights
from .split_model import SplitModel
from .teacher_mixture import TeacherMixture
from .token_measures import shared_vocabulary, token_log_probs


@dataclass(frozen=True)
class ModelPair:
    """A student and its teacher, on one device."""

    student: SplitModel
    teacher: SplitModel

    @property
    def vocabulary(self) -> int:
        return shared_vocabulary(self.student, self.teacher)


@dataclass(frozen=True)
class RolloutSettings:
    """How responses are drawn.

    alpha: the teacher's share in the mixture that tokens are drawn from. end_ids: tokens that end a
    response. batch_size: responses generated, and scored, at a time.
    """

    alpha: float
    max_new_tokens: int
    end_ids: frozenset[int]
    pad_id: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha must be at least 0 and below 1, got {self.alpha}")


@dataclass(frozen=True)
class Rollouts:
    """B responses behind their prompts, padded on the right to L columns.

    input_ids [B, L] int64: prompt, response (its end token included), padding. mask [B, L] bool:
    true at the response's tokens. At those, and zero elsewhere, [B, L] float: log_probs, by the
    student that was sampled; rewards r_t = log p - log q; weights w_t. teacher_states: of each row
    the teacher's hidden states [T, H'] that predict the T tokens of its response, kept because they
    are far smaller than its logits and are needed in every inner epoch.
    """

    input_ids: Tensor
    mask: Tensor
    log_probs: Tensor
    rewards: Tensor
    weights: Tensor
    teacher_states: list[Tensor]

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def tokens(self) -> int:
        """Tokens of all responses."""
        return int(self.mask.sum())

    def rows(self, indices: Sequence[int]) -> "Rollouts":
        """Some of the responses, without columns that none of them needs."""
        chosen = torch.tensor(indices, device=self.mask.device)
        width = int(self.mask[chosen].any(0).nonzero().max()) + 1
        return Rollouts(
            input_ids=self.input_ids[chosen, :width],
            mask=self.mask[chosen, :width],
            log_probs=self.log_probs[chosen, :width],
            rewards=self.rewards[chosen, :width],
            weights=self.weights[chosen, :width],
            teacher_states=[self.teacher_states[index] for index in indices],
        )


def sample_rollouts(
    pair: ModelPair, prompts: Sequence[Sequence[int]], settings: RolloutSettings, seed: int
) -> Rollouts:
    """One response to each prompt (token ids, at least one), drawn from the mixture of the pair.

    The same models, prompts, settings and `seed` draw the same tokens; the random state outside is
    not touched.
    """
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    responses: list[list[int]] = [[] for _ in prompts]
    device = pair.student.model.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for start in range(0, len(order), settings.batch_size):
            rows = order[start : start + settings.batch_size]
            written = _draw(pair, [prompts[row] for row in rows], settings)
            for row, response in zip(rows, written, strict=True):
                responses[row] = response
    return score_rollouts(pair, prompts, responses, settings)


def _draw(
    pair: ModelPair, prompts: Sequence[Sequence[int]], settings: RolloutSettings
) -> list[list[int]]:
    device = pair.student.model.device
    ids, mask = (tensor.to(device) for tensor in pad_left(prompts, settings.pad_id))
    mixture = TeacherMixture(pair.teacher.model, mask, settings.alpha, pair.vocabulary)
    out = generate(
        pair.student.model,
        ids,
        mask,
        end_ids=settings.end_ids,
        pad_id=settings.pad_id,
        max_new_tokens=settings.max_new_tokens,
        do_sample=True,
        temperature=1.0,
        logits_processor=LogitsProcessorList([mixture]),
    )
    return [until_end(row, settings.end_ids) for row in out.tolist()]


@torch.no_grad()
def score_rollouts(
    pair: ModelPair,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    settings: RolloutSettings,
) -> Rollouts:
    """Responses (token ids) with what both models say of them.

    What follows a response's first end token is left out. ValueError for an empty prompt or
    response.
    """
    responses = [until_end(list(response), settings.end_ids) for response in responses]
    pairs = list(zip(prompts, responses, strict=True))
    if not all(prompt and response for prompt, response in pairs):
        raise ValueError("a rollout needs at least one prompt token and one response token")
    device = pair.student.model.device
    ids = pad_rows([[*prompt, *response] for prompt, response in pairs], settings.pad_id).to(device)
    mask = _response_mask(pairs, ids.shape[1]).to(device)
    dtype = torch.promote_types(pair.student.model.dtype, torch.float32)
    students, teachers = torch.zeros(2, *ids.shape, dtype=dtype, device=device)
    states: list[Tensor] = []
    for start in range(0, len(ids), settings.batch_size):
        rows = slice(start, start + settings.batch_size)
        width = max(len(prompt) + len(response) for prompt, response in pairs[rows])
        own_ids, own_mask = ids[rows, :width], mask[rows, :width]
        students[rows, :width], _ = _score(pair.student, own_ids, own_mask, pair.vocabulary)
        teachers[rows, :width], parts = _score(pair.teacher, own_ids, own_mask, pair.vocabulary)
        states += parts
    weights = importance_weights(students, teachers, settings.alpha).where(mask, 0)
    return Rollouts(ids, mask, students, teachers - students, weights, states)


def predicting_states(model: SplitModel, input_ids: Tensor, mask: Tensor) -> Tensor:
    """Hidden states [N, H] that predict the N tokens of `mask` [B, L], in row-major order."""
    return model.states(input_ids)[:, :-1][mask[:, 1:]]


def _score(
    model: SplitModel, ids: Tensor, mask: Tensor, vocabulary: int
) -> tuple[Tensor, list[Tensor]]:
    """log-probabilities [B, L] of the tokens of `mask`, and the states that predict each row's."""
    states = predicting_states(model, ids, mask)
    log_probs = token_log_probs(model, states, ids[mask], vocabulary)
    scattered = torch.zeros(ids.shape, dtype=log_probs.dtype, device=ids.device)
    scattered[mask] = log_probs
    return scattered, list(states.split(mask.sum(1).tolist()))


def _response_mask(pairs: Sequence[tuple[Collection[int], Collection[int]]], width: int) -> Tensor:
    columns = torch.arange(width)
    prompts = torch.tensor([len(prompt) for prompt, _ in pairs])[:, None]
    ends = prompts + torch.tensor([len(response) for _, response in pairs])[:, None]
    return (prompts <= columns) & (columns < ends)
