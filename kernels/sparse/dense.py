"""Sparse weights held dense, where no sparse format is faster."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .bitmap import BitmapWeight
from .bits import unpack_bits


@dataclass(frozen=True, eq=False)
class DenseWeight:
    """A weight ``[N, K]`` with its zeros, and the bitmap that says which of them are kept.

    Attributes:
        weight: ``[N, K]``, float32, float16 or bfloat16.
        bitmap: uint8 ``[N, ceil(K / 8)]`` as in ``BitmapWeight``.
    """

    weight: Tensor
    bitmap: Tensor

    @classmethod
    def from_bitmap(cls, weight: BitmapWeight) -> DenseWeight:
        """Convert; the bitmap is shared."""
        return cls(weight.to_dense(), weight.bitmap)

    def to_bitmap(self) -> BitmapWeight:
        """Convert back, losslessly."""
        kept = self.weight.masked_select(unpack_bits(self.bitmap, self.weight.shape[1]))
        return BitmapWeight(self.shape, self.bitmap, kept)

    @property
    def shape(self) -> tuple[int, int]:
        """``(N, K)``."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the values, and of what a layer with this weight takes and gives."""
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weight lies."""
        return self.weight.device

    @property
    def num_bytes(self) -> int:
        """Bytes of weight and bitmap."""
        return self.weight.numel() * self.weight.element_size() + self.bitmap.numel()
