"""How scores are made and which of them count: what layers of one model may differ in."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """Arguments of :func:`~gistserve.kernels.attention.paged_attention` of the same names."""

    scale: float
    sliding_window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
