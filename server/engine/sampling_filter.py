"""Top-k, top-p and min-p as thresholds, so that kept tokens stay in vocabulary order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .request import SamplingParams
from .transfer import Array, upload


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

        def column(values: Iterable[float], kind: type = np.float32) -> Array:
            return np.array(list(values), dtype=kind).reshape(-1, 1)

        ks, k_rows, ps, p_rows, mins = upload(
            (
                column(top_k.values(), np.int64),
                np.array(list(top_k), dtype=np.int64),
                column(top_p.values()),
                np.array(list(top_p), dtype=np.int64),
                column(min_p),
            ),
            device,
        )
        return cls(
            top_k=ks if top_k else None,
            top_k_rows=k_rows,
            max_top_k=max(top_k.values(), default=0),
            top_p=ps if top_p else None,
            top_p_rows=p_rows,
            min_p=mins if min_p else None,
        )

    def apply(self, logits: Tensor) -> Tensor:
        """Probabilities [R, V] of logits [R, V]; 0 for what is filtered, not renormalised.

        Waits for the device where a row has a ``top_p``.
        """
        probs = self._after_top_k(logits)
        if self.top_p is not None:
            kept = probs[self.top_p_rows]
            probs = self._after_top_p(probs, kept, _nucleus_floor(kept, self.top_p))
        return self._after_min_p(probs)

    def apply_among(self, logits: Tensor, num_candidates: int) -> tuple[Tensor, Tensor]:
        """As ``apply``, without waiting for the device, looking for each nucleus among so many
        most likely tokens only.

        Returns:
            The probabilities, and a bool: whether every nucleus was found, so that they are those
            of ``apply``.
        """
        probs = self._after_top_k(logits)
        found = torch.ones((), dtype=torch.bool, device=logits.device)
        if self.top_p is not None:
            kept = probs[self.top_p_rows]
            floor, found = _floor_among(kept, self.top_p, num_candidates)
            probs = self._after_top_p(probs, kept, floor)
        return self._after_min_p(probs), found

    def _after_top_k(self, logits: Tensor) -> Tensor:
        if self.top_k is not None:
            kept = logits[self.top_k_rows]
            best = kept.topk(min(self.max_top_k, kept.shape[-1]), dim=-1).values
            floor = best.gather(1, (self.top_k - 1).clamp(max=best.shape[-1] - 1))
            logits = logits.index_copy(
                0, self.top_k_rows, kept.masked_fill(kept < floor, -torch.inf)
            )
        return logits.softmax(dim=-1)

    def _after_top_p(self, probs: Tensor, kept: Tensor, floor: Tensor) -> Tensor:
        return probs.index_copy(0, self.top_p_rows, kept.masked_fill(kept < floor, 0.0))

    def _after_min_p(self, probs: Tensor) -> Tensor:
        if self.min_p is None:
            return probs
        floor = self.min_p * probs.amax(dim=-1, keepdim=True)
        return probs.masked_fill(probs < floor, 0.0)


def candidate_sizes(vocab_size: int, smallest: int = 64) -> list[int]:
    """How many of the most likely tokens to look for a nucleus among, until it is found.

    A nucleus is small: the most likely tokens are tried before everything is sorted, where that is
    so much faster.
    """
    sizes = [size for size in (64, 1024) if size >= smallest and size * 16 <= vocab_size]
    return [*sizes, vocab_size]


def _nucleus_floor(probs: Tensor, top_p: Tensor) -> Tensor:
    """[R, 1] least probability in the smallest set that holds ``top_p`` of the mass."""
    for size in candidate_sizes(probs.shape[-1]):
        floor, found = _floor_among(probs, top_p, size)
        if size == probs.shape[-1] or bool(found):
            break
    return floor


def _floor_among(probs: Tensor, top_p: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The same if the sets lie among the ``size`` most likely tokens, and whether they do."""
    best = _most_likely(probs, size)
    mass_before = best.cumsum(dim=-1) - best
    inside = (mass_before < top_p).sum(dim=-1, keepdim=True).clamp(min=1)
    found = (mass_before[:, -1:] >= top_p).all() | (size == probs.shape[-1])
    return best.gather(1, inside - 1), found


def _most_likely(probs: Tensor, count: int) -> Tensor:
    """[R, count] the largest of [R, V], best first."""
    if count < probs.shape[-1]:
        return probs.topk(count, dim=-1).values
    if probs.device.type == "cuda":
        return probs.sort(dim=-1, descending=True).values
    ascending = np.sort(probs.numpy(), axis=-1)  # several times torch's speed, which sorts indices
    return torch.from_numpy(ascending[:, ::-1].copy())
