"""Random sparse weights, as alike in every format as the formats allow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...kernels.sparse import SEGMENT, BitmapWeight
from .device import BenchDevice

_GROUP = 8
"""Segmented rows pad the entries of a segment to a multiple of this."""


@dataclass(frozen=True)
class SparseWeights:
    """Random weights ``[N, K]`` of one shape and sparsity."""

    device: BenchDevice
    shape: tuple[int, int]
    sparsity: float

    @cached_property
    def balanced(self) -> BitmapWeight:
        """Every 256 columns of a row keep the same number."""
        return self._segments(round((1 - self.sparsity) * SEGMENT))

    @cached_property
    def grouped(self) -> BitmapWeight:
        """As balanced, with fewer kept so that segmented rows need no padding."""
        return self._segments(int((1 - self.sparsity) * SEGMENT) // _GROUP * _GROUP)

    @cached_property
    def ragged(self) -> BitmapWeight:
        """Every element is kept or not on its own."""
        mask = torch.rand(*self.shape, device=self.device.device) >= self.sparsity
        return BitmapWeight.from_dense(self.device.randn(*self.shape), mask)

    @property
    def dense_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.device.dtype.itemsize

    def _segments(self, kept: int) -> BitmapWeight:
        mask = exact_mask(self.device, self.shape, SEGMENT, kept)
        return BitmapWeight.from_dense(self.device.randn(*self.shape), mask)


def exact_mask(device: BenchDevice, shape: tuple[int, int], group: int, kept: int) -> Tensor:
    """``kept`` random ones in every ``group`` neighbours of a row: bool ``[N, K]``."""
    rows, columns = shape
    noise = torch.rand(rows, columns // group, group, device=device.device)
    chosen = noise.topk(kept, dim=-1).indices
    return torch.zeros_like(noise, dtype=torch.bool).scatter_(-1, chosen, True).view(shape)
