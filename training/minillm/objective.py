"""MiniLLM's objective, token by token (Gu et al. 2023, arXiv 2306.08543, section 2.2).

The loss is the reverse KL divergence L = KL[q || p] = -E_{y~q} log p(y)/q(y) of student q and
teacher p (eq. 1). With r_t = log p(y_t)/q(y_t) and R_t the sum of r from t to the end, its gradient
is split (eq. 3) into an exact part for the token at hand and a sampled one for what follows it:

    -E_y sum_t grad E_{y_t~q}[r_t]  -  E_y sum_t R_{t+1} grad log q(y_t).

Responses are drawn from a mixture of both models (eq. 4), so both parts of step t are weighted by
w_t = q(y_t)/mixture(y_t), the paper's approximation of the product of all ratios up to t (eq. 5).
R_{t+1} is divided by the number of tokens it sums (eq. 6, which counts tokens from 0: the last has
t = T - 1, and nothing follows it). No reward is discounted, halved or whitened.

A buffer of responses is learned several times. PPO's clipped surrogate (Schulman et al. 2017,
arXiv 1707.06347, eq. 7) stands for the sampled part: its gradient is that of eq. 5 where the
student has not moved since it was sampled, and vanishes where the ratio has moved past the bound.
Rewards and weights are those of the sampling student, and constants.
"""

import math

import torch
from torch import Tensor


def importance_weights(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """w_t = q/(alpha p + (1 - alpha) q) of log-probabilities, of any shape: at most 1/(1 - alpha).

    student, teacher: log q(y_t) and log p(y_t) of the tokens that were drawn.
    """
    if alpha == 0:
        return torch.ones_like(student)
    return 1 / ((1 - alpha) + (teacher - student + math.log(alpha)).exp())


def following_rewards(rewards: Tensor, mask: Tensor, *, normalise: bool) -> Tensor:
    """R_{t+1} for every t: the sum, or with `normalise` the mean, of the rewards after t.

    rewards [B, L] float; mask [B, L] bool, true at tokens of the response, where alone rewards are
    read. Zero where no token follows, and outside the mask.
    """
    ours = rewards.where(mask, 0)
    total = _sum_after(ours)
    if normalise:
        total = total / _sum_after(mask.to(ours.dtype)).clamp(min=1)
    return total.where(mask, 0)


def sampled_loss(
    log_probs: Tensor, old_log_probs: Tensor, weights: Tensor, advantages: Tensor, clip: float
) -> Tensor:
    """The clipped surrogate of the sampled part, negative, for each token; shapes are all alike.

    log_probs: of the student as it is, with a gradient. old_log_probs: as it sampled. advantages:
    what a token's log-probability is worth, R_{t+1}. Only `log_probs` gets a gradient.
    """
    ratio = (log_probs - old_log_probs.detach()).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    worth = advantages.detach()
    return -weights.detach() * torch.minimum(ratio * worth, clipped * worth)


def _sum_after(values: Tensor) -> Tensor:
    """[B, L]: for each column the sum of those to its right."""
    sums = values.flip(1).cumsum(1).flip(1)
    return torch.cat([sums[:, 1:], torch.zeros_like(sums[:, :1])], 1)
