"""The loss of a minibatch of rollouts and of documents, as one module."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .objective import following_rewards, sampled_loss
from .rollouts import ModelPair, Rollouts, predicting_states
from .token_measures import compare_tokens, token_log_probs


@dataclass(frozen=True)
class ObjectiveSettings:
    """The paper's choices. `length_normalisation` and `single_step` false leave a stabiliser out.

    Without `single_step` the token at hand is learned from its own reward like those after it: eq.
    2 of the paper where `length_normalisation` is false as well. Both ways have the same expected
    gradient.
    """

    clip: float = 0.2
    length_normalisation: bool = True
    single_step: bool = True


class MiniLLMLoss(nn.Module):
    """Losses of rollouts (objective.py) and of documents, summed over their tokens.

    A module, since what trains over several processes wraps one: the student's parameters are its
    own, the teacher's are not.
    """

    def __init__(self, pair: ModelPair, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.student = pair.student.model
        self._pair = [pair]  # in a list, where no teacher is registered as a part of this module
        self._settings = settings

    def forward(
        self, rollouts: Rollouts, scale: float, documents: Tensor | None, document_scale: float
    ) -> dict[str, Tensor]:
        """`loss`, with a gradient, and detached sums over tokens of what it is made of.

        loss = scale x (single-step + sampled part, summed over all tokens of all responses)
        + document_scale x (cross-entropy summed over the tokens of `documents` [D, L] int64).
        """
        parts = self._rollout_loss(rollouts)
        loss = scale * parts["rollout_loss"]
        if documents is not None:
            parts["lm_loss"] = self._document_loss(documents)
            parts["lm_tokens"] = torch.tensor(documents[:, 1:].numel(), device=documents.device)
            loss = loss + document_scale * parts["lm_loss"]
        return {"loss": loss, **{name: part.detach() for name, part in parts.items()}}

    def _rollout_loss(self, rollouts: Rollouts) -> dict[str, Tensor]:
        pair, settings, mask = self._pair[0], self._settings, rollouts.mask
        log_probs, reverse_kl = compare_tokens(
            pair.student,
            predicting_states(pair.student, rollouts.input_ids, mask),
            pair.teacher,
            torch.cat(rollouts.teacher_states),
            rollouts.input_ids[mask],
            divergence="reverse",
        )
        old, weights = rollouts.log_probs[mask], rollouts.weights[mask]
        advantages = following_rewards(
            rollouts.rewards, mask, normalise=settings.length_normalisation
        )[mask]
        if settings.single_step:
            single = (weights * reverse_kl).sum()
        else:
            single = torch.zeros_like(reverse_kl).sum()
            advantages = advantages + rollouts.rewards[mask]
        sampled = sampled_loss(log_probs, old, weights, advantages, settings.clip).sum()
        moved = ((log_probs - old).exp() - 1).abs() > settings.clip
        return {
            "rollout_loss": single + sampled,
            "single_step_loss": single,
            "sampled_loss": sampled,
            "reverse_kl": reverse_kl.sum(),
            "clipped": moved.sum(),
            "rollout_tokens": mask.sum(),
        }

    def _document_loss(self, documents: Tensor) -> Tensor:
        """-log q(d) (section 2.3 of the paper), without each row's first token."""
        student = self._pair[0].student
        states = student.states(documents)[:, :-1].flatten(0, 1)
        return -token_log_probs(student, states, documents[:, 1:].flatten()).sum()
