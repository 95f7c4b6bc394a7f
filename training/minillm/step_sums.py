"""What happened since the last report of a run, in a few figures."""

import torch
from accelerate import Accelerator
from torch import Tensor

from .rollouts import Rollouts


class StepSums:
    """Sums of what is learned, turned into means by `report`, over all processes."""

    def __init__(self) -> None:
        self._learned: dict[str, Tensor] = {}
        self._norms: list[float] = []
        self._buffer: dict[str, float] = {}

    def sampled(self, rollouts: Rollouts, seconds: float, end_ids: frozenset[int]) -> None:
        """A new buffer, which stands for itself until the next."""
        count, tokens = len(rollouts), rollouts.tokens
        ends = torch.tensor(sorted(end_ids), device=rollouts.mask.device)
        ended = torch.isin(rollouts.input_ids, ends) & rollouts.mask
        self._buffer = {
            "reward": float(rollouts.rewards.sum()) / tokens,
            "weight": float(rollouts.weights.sum()) / tokens,
            "tokens": tokens / count,
            "ended": float(ended.any(1).sum()) / count,
            "sampling_seconds": seconds,
        }

    def learned(self, losses: dict[str, Tensor]) -> None:
        """Sums over tokens of one part of a minibatch."""
        for name, value in losses.items():
            self._learned[name] = self._learned.get(name, torch.zeros_like(value)) + value

    def stepped(self, norm: float) -> None:
        """A step with this norm of its gradient."""
        self._norms.append(norm)

    def report(self, accelerator: Accelerator) -> dict[str, float]:
        """Means by token of what was learned since the last report, and what the buffer was like.

        To be called on all processes after a step.
        """
        sums = accelerator.reduce(self._learned, "sum")
        own = {name: torch.tensor(value) for name, value in self._buffer.items()}
        placed = {name: value.to(accelerator.device) for name, value in own.items()}
        buffer = accelerator.reduce(placed, "mean")
        lm_tokens, tokens = sums.pop("lm_tokens", None), sums.pop("rollout_tokens")
        figures = {name: float(value / tokens) for name, value in sums.items() if name != "lm_loss"}
        if lm_tokens is not None:
            figures["lm_loss"] = float(sums["lm_loss"] / lm_tokens)
        figures["grad_norm"] = sum(self._norms) / len(self._norms)
        self._learned, self._norms = {}, []
        return figures | {name: float(value) for name, value in buffer.items()}
