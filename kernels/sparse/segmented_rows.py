"""Sparse weights as rows cut into 256-column segments, so that a column is one byte."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from .bitmap import WEIGHT_DTYPES, BitmapWeight
from .bits import pack_bits
from .errors import SparseFormatError

SEGMENT = 256
"""Columns of a segment: as many as a uint8 can name."""

GROUP = 8
"""Entries of a segment are padded to a multiple of this, so that loads stay aligned."""


@dataclass(frozen=True, eq=False)
class SegmentedRows:
    """A weight ``[N, K]`` as (column, value) entries of its ``S = ceil(K / 256)`` row segments.

    The entries of a segment are in the order of their columns and padded to a multiple of 8 with
    (column 0, value 0). Only padding names column 0 after a segment's first entry.

    Attributes:
        shape: ``(N, K)``.
        columns: uint8 ``[P]``, columns inside the segment.
        values: ``[P]``, float32, float16 or bfloat16.
        offsets: int32 ``[N * S + 1]`` in units of 8 entries; segment ``s`` of row ``n`` holds
            entries ``8 * offsets[n * S + s]`` to ``8 * offsets[n * S + s + 1]``. None when
            balanced.
        count: None, or when balanced the padded entries of every segment: ``columns`` and
            ``values`` are then ``[N, S, count]`` laid flat.

    Raises:
        SparseFormatError: dtypes, shapes or devices do not fit the format.
    """

    shape: tuple[int, int]
    columns: Tensor
    values: Tensor
    offsets: Tensor | None
    count: int | None

    def __post_init__(self) -> None:
        if self.columns.dtype != torch.uint8 or self.columns.shape != self.values.shape:
            raise SparseFormatError(
                f"columns are {self.columns.dtype} {list(self.columns.shape)}, but "
                f"{list(self.values.shape)} values need as many of torch.uint8"
            )
        if self.values.dtype not in WEIGHT_DTYPES or self.values.dim() != 1:
            raise SparseFormatError(
                f"values are {self.values.dtype} {list(self.values.shape)}, but must be one row "
                "of float32, float16 or bfloat16"
            )
        self._check_segments()
        devices = {
            part.device for part in (self.columns, self.values, self.offsets) if part is not None
        }
        if len(devices) > 1:
            raise SparseFormatError(
                f"parts are on {sorted(map(str, devices))}; move them to one device"
            )

    def _check_segments(self) -> None:
        segments = self.shape[0] * self.segments
        if (self.offsets is None) == (self.count is None):
            raise SparseFormatError("give offsets (ragged) or count (balanced), and not both")
        if self.count is not None and (
            self.count <= 0 or self.count % GROUP or segments * self.count != self.values.numel()
        ):
            raise SparseFormatError(
                f"{self.values.numel()} entries are not {segments} segments of {self.count}, "
                f"a positive multiple of {GROUP}"
            )
        if self.offsets is not None and (
            self.offsets.dtype != torch.int32 or tuple(self.offsets.shape) != (segments + 1,)
        ):
            raise SparseFormatError(
                f"offsets are {self.offsets.dtype} {list(self.offsets.shape)}, but "
                f"{segments} segments need torch.int32 {[segments + 1]}"
            )

    @classmethod
    def from_bitmap(cls, weight: BitmapWeight) -> SegmentedRows:
        """Convert; the result is balanced where the weight is.

        A weight is balanced when all whole segments keep the same number of elements, and the
        partial one at a row's end at least one and no more than that.

        Raises:
            ValueError: the weight has more entries than int32 offsets can name.
        """
        counts = weight.tile_counts(SEGMENT)
        count = _balanced_count(counts, weight.shape[1])
        padded = (counts.flatten().long() + GROUP - 1) // GROUP
        if count is not None:
            padded = padded.new_full(padded.shape, -(-count // GROUP))
        offsets = pad(padded.cumsum(0), (1, 0))
        if int(offsets[-1]) >= 2**31:
            raise ValueError(f"a weight of shape {list(weight.shape)} is too large; split it")
        real = _real_entries(counts.flatten(), offsets)
        columns = real.new_zeros(real.shape, dtype=torch.uint8)
        columns.masked_scatter_(real, _columns_in_segment(weight))
        values = weight.values.new_zeros(real.shape).masked_scatter_(real, weight.values)
        if count is not None:
            return cls(weight.shape, columns, values, None, -(-count // GROUP) * GROUP)
        return cls(weight.shape, columns, values, offsets.int(), None)

    @property
    def dtype(self) -> torch.dtype:
        """Of the values, and of what a layer with this weight takes and gives."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Where the weight lies."""
        return self.values.device

    @property
    def segments(self) -> int:
        """Segments of a row."""
        return -(-self.shape[1] // SEGMENT)

    @property
    def is_balanced(self) -> bool:
        """Whether every segment holds ``count`` entries, padding included."""
        return self.count is not None

    @property
    def num_bytes(self) -> int:
        """Bytes of columns, values and offsets, padding included."""
        parts = [self.columns, self.values] + ([] if self.offsets is None else [self.offsets])
        return sum(part.numel() * part.element_size() for part in parts)

    def starts(self) -> Tensor:
        """Index of each segment's first entry and of the end, int64 ``[N * S + 1]``."""
        if self.offsets is not None:
            return self.offsets.long() * GROUP
        assert self.count is not None
        segments = self.shape[0] * self.segments
        return torch.arange(segments + 1, device=self.values.device) * self.count

    def to_bitmap(self) -> BitmapWeight:
        """Convert back, without the padding; kept zeros stay kept."""
        starts = self.starts()
        segment = torch.repeat_interleave(starts.diff())
        first = torch.zeros_like(self.columns, dtype=torch.bool)
        first[starts[:-1][starts.diff() > 0]] = True
        real = first | (self.columns != 0)
        rows, columns = self.shape
        mask = torch.zeros(rows * self.segments * SEGMENT, dtype=torch.bool, device=real.device)
        mask[(segment * SEGMENT + self.columns)[real]] = True
        mask = mask.view(rows, self.segments * SEGMENT)[:, :columns]
        return BitmapWeight(self.shape, pack_bits(mask), self.values[real])

    def to_dense(self) -> Tensor:
        """The weight ``[N, K]`` in the dtype of ``values``, zero where nothing is kept."""
        return self.to_bitmap().to_dense()


def _columns_in_segment(weight: BitmapWeight) -> Tensor:
    """The column inside its segment of every kept element, uint8 ``[nnz]``."""
    mask = pad(weight.mask(), (0, -weight.shape[1] % SEGMENT)).view(-1, SEGMENT)
    columns = torch.arange(SEGMENT, dtype=torch.uint8, device=mask.device)
    return columns.expand(mask.shape).masked_select(mask)


def _real_entries(counts: Tensor, offsets: Tensor) -> Tensor:
    """Bool ``[P]``: which entries of segments that start at ``offsets`` are no padding."""
    groups = offsets.diff()
    first_group = torch.repeat_interleave(offsets[:-1], groups)
    before = (torch.arange(len(first_group), device=counts.device) - first_group) * GROUP
    left = torch.repeat_interleave(counts, groups) - before
    return (torch.arange(GROUP, device=counts.device) < left[:, None]).flatten()


def _balanced_count(counts: Tensor, columns: int) -> int | None:
    """Kept elements of every whole segment where ``counts`` ``[N, S]`` are balanced, else None."""
    partial = columns > SEGMENT and columns % SEGMENT > 0
    whole = counts[:, :-1] if partial else counts
    low, high = (int(bound) for bound in whole.aminmax())
    least, most = (int(bound) for bound in counts.aminmax())
    return high if low == high and least > 0 and most == high else None
