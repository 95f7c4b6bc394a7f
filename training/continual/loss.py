"""The one loss of all objectives."""

import torch
from torch import Tensor

from .example import IGNORED


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats, summed over the labels that are not IGNORED, in float32.

    logits: [R, T, V]; labels: [R, T] int64, each for the logits at its place.
    """
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
