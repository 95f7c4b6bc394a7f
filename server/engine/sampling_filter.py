"""Top-k, top-p and min-p as thresholds, so that kept tokens stay in vocabulary order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .request import SamplingParams


@dataclass(slots=True)
class SamplingFilter:
    """Filters of R rows. Tokens that tie with the last one kept are kept too."""

    top_k: Tensor | None
    """[Rk, 1] int64, for the rows ``top_k_rows``."""
    top_k_rows: list[int]
    max_top_k: int
    top_p: Tensor | None
    """[Rp, 1] float32, for the rows ``top_p_rows``."""
    top_p_rows: list[int]
    min_p: Tensor | None
    """[R, 1] float32."""

    @classmethod
    def build(cls, params: list[SamplingParams], device: torch.device) -> SamplingFilter | None:
        """The filters of [R] requests; ``None`` if none of them filters."""
        k_rows = [row for row, p in enumerate(params) if p.top_k > 0]
        p_rows = [row for row, p in enumerate(params) if p.top_p < 1.0]
        if not k_rows and not p_rows and not any(p.min_p for p in params):
            return None
        return cls(
            top_k=torch.tensor([[params[r].top_k] for r in k_rows], device=device)
            if k_rows
            else None,
            top_k_rows=k_rows,
            max_top_k=max((params[r].top_k for r in k_rows), default=0),
            top_p=torch.tensor([[params[r].top_p] for r in p_rows], device=device)
            if p_rows
            else None,
            top_p_rows=p_rows,
            min_p=torch.tensor([[p.min_p] for p in params], device=device)
            if any(p.min_p for p in params)
            else None,
        )

    def apply(self, logits: Tensor) -> Tensor:
        """Probabilities [R, V] of logits [R, V]; 0 for what is filtered, not renormalised."""
        if self.top_k is not None:
            kept = logits[self.top_k_rows]
            best = kept.topk(min(self.max_top_k, kept.shape[-1]), dim=-1).values
            floor = best.gather(1, (self.top_k - 1).clamp(max=best.shape[-1] - 1))
            rows = torch.tensor(self.top_k_rows, device=logits.device)
            logits = logits.index_copy(0, rows, kept.masked_fill(kept < floor, -torch.inf))
        probs = logits.softmax(dim=-1)
        if self.top_p is not None:
            kept = probs[self.top_p_rows]
            rows = torch.tensor(self.top_p_rows, device=logits.device)
            floor = _nucleus_floor(kept, self.top_p)
            probs = probs.index_copy(0, rows, kept.masked_fill(kept < floor, 0.0))
        if self.min_p is not None:
            floor = self.min_p * probs.amax(dim=-1, keepdim=True)
            probs = probs.masked_fill(probs < floor, 0.0)
        return probs


def _nucleus_floor(probs: Tensor, top_p: Tensor) -> Tensor:
    """[R, 1] least probability in the smallest set that holds ``top_p`` of the mass.

    A nucleus is small: the most likely tokens are tried before everything is sorted.
    """
    for size in (64, 1024, probs.shape[-1]):
        best = probs.topk(min(size, probs.shape[-1]), dim=-1).values
        mass_before = best.cumsum(dim=-1) - best
        if size >= probs.shape[-1] or bool((mass_before[:, -1:] >= top_p).all()):
            break
    inside = (mass_before < top_p).sum(dim=-1, keepdim=True).clamp(min=1)
    return best.gather(1, inside - 1)
