"""Bitmaps with the starts of their tiles: the runtime format of small CUDA batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .bitmap import BitmapWeight
from .errors import SparseFormatError

TILE_COLUMNS = 64
"""Columns of a row that a kernel decodes with one look-up of where their values start."""


@dataclass(frozen=True, eq=False)
class BitmapTiles:
    """A bitmap weight ``[N, K]`` beside where each row's tiles of 64 columns start.

    Attributes:
        bitmap: the weight.
        offsets: int32 ``[N, ceil(K / 64)]``, index into ``bitmap.values``.

    Raises:
        SparseFormatError: the offsets are not those of such tiles, or on another device.
    """

    bitmap: BitmapWeight
    offsets: Tensor

    def __post_init__(self) -> None:
        expected = (self.shape[0], -(-self.shape[1] // TILE_COLUMNS))
        if self.offsets.dtype != torch.int32 or tuple(self.offsets.shape) != expected:
            raise SparseFormatError(
                f"tile offsets are {self.offsets.dtype} {list(self.offsets.shape)}, but a weight "
                f"of shape {list(self.shape)} needs torch.int32 {list(expected)}"
            )
        if self.offsets.device != self.bitmap.values.device:
            raise SparseFormatError(
                f"tile offsets are on {self.offsets.device} and values on "
                f"{self.bitmap.values.device}; move both to one device"
            )

    @classmethod
    def from_bitmap(cls, weight: BitmapWeight) -> BitmapTiles:
        """Add the offsets; bitmap and values are shared."""
        return cls(weight, weight.tile_offsets(TILE_COLUMNS))

    def to_bitmap(self) -> BitmapWeight:
        """The weight without the offsets."""
        return self.bitmap

    @property
    def shape(self) -> tuple[int, int]:
        """``(N, K)``."""
        return self.bitmap.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the values, and of what a layer with this weight takes and gives."""
        return self.bitmap.dtype

    @property
    def device(self) -> torch.device:
        """Where the weight lies."""
        return self.bitmap.device

    @property
    def num_bytes(self) -> int:
        """Bytes of bitmap, values and offsets."""
        return self.bitmap.num_bytes + 4 * self.offsets.numel()
