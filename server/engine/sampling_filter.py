"""Top-k, top-p and min-p as thresholds, so that kept tokens stay in vocabulary order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .request import SamplingParams


@dataclass(slots=True)
class SamplingFilter:
    """Filters of R rows. Tokens that tie with the last one kept are kept too."""

    top_k: Tensor | None
    """[Rk, 1] int64, for the rows ``top_k_rows`` [Rk] int64."""
    top_k_rows: Tensor
    max_top_k: int
    top_p: Tensor | None
    """[Rp, 1] float32, for the rows ``top_p_rows`` [Rp] int64."""
    top_p_rows: Tensor
    min_p: Tensor | None
    """[R, 1] float32."""

    @classmethod
    def build(cls, params: list[SamplingParams], device: torch.device) -> SamplingFilter | None:
        """The filters of [R] requests; ``None`` if none of them filters."""
        top_k = {row: p.top_k for row, p in enumerate(params) if p.top_k > 0}
        top_p = {row: p.top_p for row, p in enumerate(params) if p.top_p < 1.0}
        min_p = [p.min_p for p in params] if any(p.min_p for p in params) else []
        if not (top_k or top_p or min_p):
            return None

        def column(values: Iterable[float]) -> Tensor | None:
            found = [[value] for value in values]
            return torch.tensor(found, device=device) if found else None

        return cls(
            top_k=column(top_k.values()),
            top_k_rows=torch.tensor(list(top_k), dtype=torch.int64, device=device),
            max_top_k=max(top_k.values(), default=0),
            top_p=column(top_p.values()),
            top_p_rows=torch.tensor(list(top_p), dtype=torch.int64, device=device),
            min_p=column(min_p),
        )

    def apply(self, logits: Tensor) -> Tensor:
        """Probabilities [R, V] of logits [R, V]; 0 for what is filtered, not renormalised."""
        if self.top_k is not None:
            kept = logits[self.top_k_rows]
            best = kept.topk(min(self.max_top_k, kept.shape[-1]), dim=-1).values
            floor = best.gather(1, (self.top_k - 1).clamp(max=best.shape[-1] - 1))
            logits = logits.index_copy(
                0, self.top_k_rows, kept.masked_fill(kept < floor, -torch.inf)
            )
        probs = logits.softmax(dim=-1)
        if self.top_p is not None:
            kept = probs[self.top_p_rows]
            floor = _nucleus_floor(kept, self.top_p)
            probs = probs.index_copy(0, self.top_p_rows, kept.masked_fill(kept < floor, 0.0))
        if self.min_p is not None:
            floor = self.min_p * probs.amax(dim=-1, keepdim=True)
            probs = probs.masked_fill(probs < floor, 0.0)
        return probs


def _nucleus_floor(probs: Tensor, top_p: Tensor) -> Tensor:
    """[R, 1] least probability in the smallest set that holds ``top_p`` of the mass.

    A nucleus is small: the most likely tokens are tried before everything is sorted.
    """
    vocab_size = probs.shape[-1]
    for size in (64, 1024, vocab_size):
        if size * 16 > vocab_size:  # then sorting all is as fast
            size = vocab_size
        best = _most_likely(probs, size)
        mass_before = best.cumsum(dim=-1) - best
        if size == vocab_size or bool((mass_before[:, -1:] >= top_p).all()):
            break
    inside = (mass_before < top_p).sum(dim=-1, keepdim=True).clamp(min=1)
    return best.gather(1, inside - 1)


def _most_likely(probs: Tensor, count: int) -> Tensor:
    """[R, count] the largest of [R, V], best first."""
    if count < probs.shape[-1]:
        return probs.topk(count, dim=-1).values
    if probs.device.type == "cuda":
        return probs.sort(dim=-1, descending=True).values
    ascending = np.sort(probs.numpy(), axis=-1)  # several times torch's speed, which sorts indices
    return torch.from_numpy(ascending[:, ::-1].copy())
