"""Sparse weights as one bit an element beside the packed kept values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from .bits import count_bits, pack_bits, unpack_bits
from .errors import SparseFormatError

WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class BitmapWeight:
    """A weight ``[N, K]`` (out_features, in_features) as a bitmap and its kept values.

    This is what lies on disk. A kept value may be zero: the mask, not the value, says what is
    kept. Construction checks what shapes and dtypes tell; ``check`` reads the bits as well.

    Attributes:
        shape: ``(N, K)``.
        bitmap: uint8 ``[N, ceil(K / 8)]``; bit ``j`` of byte ``i`` is column ``8 * i + j``, the
            least significant bit first; bits past ``K`` are 0.
        values: ``[nnz]``, float32, float16 or bfloat16, the kept values row after row.

    Raises:
        SparseFormatError: dtypes, shapes or devices do not fit the format.
    """

    shape: tuple[int, int]
    bitmap: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        rows, columns = self.shape
        if rows < 1 or columns < 1:
            raise SparseFormatError(f"a weight has rows and columns, but its shape is {self.shape}")
        expected = (rows, -(-columns // 8))
        if self.bitmap.dtype != torch.uint8 or tuple(self.bitmap.shape) != expected:
            raise SparseFormatError(
                f"bitmap is {self.bitmap.dtype} {list(self.bitmap.shape)}, but a weight of shape "
                f"{[rows, columns]} has a bitmap of torch.uint8 {list(expected)}"
            )
        if self.values.dtype not in WEIGHT_DTYPES or self.values.dim() != 1:
            raise SparseFormatError(
                f"values are {self.values.dtype} {list(self.values.shape)}, but must be one row "
                "of float32, float16 or bfloat16"
            )
        if self.bitmap.device != self.values.device:
            raise SparseFormatError(
                f"bitmap is on {self.bitmap.device} and values on {self.values.device}; "
                "move both to one device"
            )

    @classmethod
    def from_dense(cls, weight: Tensor, mask: Tensor | None = None) -> BitmapWeight:
        """Keep ``weight`` ``[N, K]`` where ``mask`` (bool ``[N, K]``) is true.

        Without a mask everything that is not zero is kept.

        Raises:
            SparseFormatError: ``weight`` is no matrix of a supported dtype, or ``mask`` is not a
                bool tensor of its shape and device.
        """
        if weight.dim() != 2 or weight.dtype not in WEIGHT_DTYPES:
            raise SparseFormatError(
                f"cannot make a bitmap of {weight.dtype} {list(weight.shape)}: the weight must be "
                "a matrix of float32, float16 or bfloat16"
            )
        if mask is None:
            mask = weight != 0
        elif mask.dtype != torch.bool or mask.shape != weight.shape or mask.device != weight.device:
            raise SparseFormatError(
                f"mask is {mask.dtype} {list(mask.shape)} on {mask.device}, but the weight needs "
                f"torch.bool {list(weight.shape)} on {weight.device}"
            )
        rows, columns = weight.shape
        return cls((rows, columns), pack_bits(mask), weight.detach().masked_select(mask))

    @property
    def dtype(self) -> torch.dtype:
        """Of the values, and of what a layer with this weight takes and gives."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Where the weight lies."""
        return self.values.device

    @property
    def nnz(self) -> int:
        """Stored values, zeros that the mask keeps included."""
        return self.values.numel()

    @property
    def sparsity(self) -> float:
        """The share of elements that are not stored."""
        return 1 - self.nnz / (self.shape[0] * self.shape[1])

    @property
    def num_bytes(self) -> int:
        """Bytes of bitmap and values."""
        return self.bitmap.numel() + self.values.numel() * self.values.element_size()

    def mask(self) -> Tensor:
        """Bool ``[N, K]``, true where a value is kept."""
        return unpack_bits(self.bitmap, self.shape[1])

    def to_dense(self) -> Tensor:
        """The weight ``[N, K]`` in the dtype of ``values``, zero where nothing is kept."""
        dense = self.values.new_zeros(self.shape)
        return dense.masked_scatter_(self.mask(), self.values)

    def row_counts(self) -> Tensor:
        """Stored values of each row, int32 ``[N]``."""
        return count_bits(self.bitmap).sum(dim=1, dtype=torch.int32)

    def tile_counts(self, tile_columns: int) -> Tensor:
        """Stored values of each tile of a row, int32 ``[N, ceil(K / tile_columns)]``.

        Raises:
            ValueError: ``tile_columns`` is no positive multiple of 8.
        """
        if tile_columns <= 0 or tile_columns % 8:
            raise ValueError(f"tile_columns is {tile_columns}; it must be a positive multiple of 8")
        rows, width = self.bitmap.shape
        tile_bytes = tile_columns // 8
        tiles = -(-width // tile_bytes)
        counts = pad(count_bits(self.bitmap), (0, tiles * tile_bytes - width))
        return counts.view(rows, tiles, tile_bytes).sum(dim=2, dtype=torch.int32)

    def tile_offsets(self, tile_columns: int) -> Tensor:
        """Where in ``values`` each tile of a row starts, int32 ``[N, ceil(K / tile_columns)]``.

        Raises:
            ValueError: ``tile_columns`` is no positive multiple of 8, or the values are more than
                int32 can count.
        """
        if self.nnz >= 2**31:
            raise ValueError(f"{self.nnz} values cannot be counted in int32; split the weight")
        counts = self.tile_counts(tile_columns)
        ends = counts.flatten().cumsum(0, dtype=torch.int32)
        return ends.view_as(counts) - counts

    def check(self) -> None:
        """Read every bit, and refuse a bitmap that contradicts the values.

        Raises:
            SparseFormatError: bits past ``K`` are set, or the bitmap counts other than ``nnz``.
        """
        columns = self.shape[1]
        if columns % 8 and (self.bitmap[:, -1] >> (columns % 8)).any():
            raise SparseFormatError(
                f"corrupted bitmap: bits past column {columns} are set; make the file again"
            )
        counted = int(count_bits(self.bitmap).sum(dtype=torch.int64))
        if counted != self.nnz:
            raise SparseFormatError(
                f"corrupted bitmap: it marks {counted} elements, but {self.nnz} values are "
                "stored; make the file again"
            )
