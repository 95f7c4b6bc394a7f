"""Triton kernels: sparse weights as dense ones, for batches too large for the other kernels.

Segmented rows first become a bitmap, which is then decoded like any other. Writing each entry
where it belongs would be simpler, but costs a memory sector for every two bytes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .bitmap_tiles import TILE_COLUMNS, BitmapTiles
from .segmented_rows import GROUP, SEGMENT, SegmentedRows
from .triton_alignment import aligned
from .triton_bitmap import load_words
from .triton_decode import decode_words

ROWS = 32
"""Rows of a program."""


def bitmap_to_dense(weight: BitmapTiles) -> Tensor:
    """``[N, K]`` in the dtype of the values, zero where nothing is kept."""
    bitmap = weight.bitmap
    return _decode(
        bitmap.bitmap,
        bitmap.values,
        weight.offsets,
        weight.shape,
        tile_columns=TILE_COLUMNS,
        unit=1,
        count=0,
    )


def segmented_to_dense(weight: SegmentedRows) -> Tensor:
    """``[N, K]`` in the dtype of the values, zero where nothing is kept."""
    num_rows, segments = weight.shape[0], weight.segments
    bitmap = weight.columns.new_empty(num_rows, segments * (SEGMENT // 8))
    segment_bits_kernel[(segments, triton.cdiv(num_rows, ROWS))](
        weight.columns,
        weight.offsets,
        bitmap.view(torch.int32),
        num_rows,
        segments,
        COUNT=(weight.count or 0) // GROUP,
        ROWS=ROWS,
        num_warps=4,
        enable_fp_fusion=True,
    )
    return _decode(
        bitmap,
        weight.values,
        weight.offsets,
        weight.shape,
        tile_columns=SEGMENT,
        unit=GROUP,
        count=weight.count or 0,
    )


def _decode(
    bitmap: Tensor,
    values: Tensor,
    starts: Tensor | None,
    shape: tuple[int, int],
    *,
    tile_columns: int,
    unit: int,
    count: int,
) -> Tensor:
    """A bitmap ``[N, bytes]`` whose tiles begin at ``unit * starts``, or every ``count`` values."""
    num_rows, num_columns = shape
    tiles = triton.cdiv(num_columns, tile_columns)
    out = values.new_empty(num_rows, num_columns)
    decode_kernel[(tiles, triton.cdiv(num_rows, ROWS))](
        aligned(bitmap),
        aligned(values),
        starts,
        out,
        num_rows,
        num_columns,
        bitmap.shape[1],
        tiles,
        COUNT=count,
        UNIT=unit,
        WORDS=tile_columns // 32,
        ROWS=ROWS,
        EVEN=bitmap.shape[1] * 8 == tiles * tile_columns,
        num_warps=ROWS * (tile_columns // 32) // 32,
        enable_fp_fusion=True,
    )
    return out


@triton.jit(do_not_specialize=["tiles"])
def decode_kernel(
    bitmap_ptr,
    values_ptr,
    starts_ptr,
    out_ptr,
    num_rows,
    num_columns,
    row_bytes,
    tiles,
    COUNT: tl.constexpr,
    UNIT: tl.constexpr,
    WORDS: tl.constexpr,
    ROWS: tl.constexpr,
    EVEN: tl.constexpr,
):
    """One tile of one block of rows."""
    tile = tl.program_id(0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    valid_row = tl.minimum(row, num_rows - 1)
    place = valid_row * tiles + tile
    start = place * COUNT if starts_ptr is None else tl.load(starts_ptr + place) * UNIT
    word = load_words(bitmap_ptr + valid_row[:, None] * row_bytes, tile, row_bytes, WORDS, EVEN)
    dense = decode_words(values_ptr, start, word)
    column = tile * (WORDS * 32) + tl.arange(0, WORDS * 32)
    tl.store(
        out_ptr + row.to(tl.int64)[:, None] * num_columns + column[None, :],
        dense,
        mask=(row < num_rows)[:, None] & (column < num_columns)[None, :],
    )


@triton.jit(do_not_specialize=["segments"])
def segment_bits_kernel(
    columns_ptr,
    offsets_ptr,
    words_ptr,
    num_rows,
    segments,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The bitmap of one segment of one block of rows. ``COUNT``: groups a segment, 0 if ragged."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    place = tl.minimum(row, num_rows - 1) * segments + tl.program_id(0)
    if COUNT > 0:
        start = place * COUNT
        length = tl.full([ROWS], COUNT, tl.int32)
        longest = COUNT
    else:
        start = tl.load(offsets_ptr + place)
        length = tl.load(offsets_ptr + place + 1) - start
        longest = tl.max(length, 0)
    words = tl.zeros([ROWS, 8], tl.uint32)
    for done in range(0, longest, 4):
        words += _bits_of_groups(columns_ptr, start, length, done)
    words_ptr += place[:, None] * 8 + tl.arange(0, 8)[None, :]
    tl.store(words_ptr, words.to(tl.int32, bitcast=True), mask=(row < num_rows)[:, None])


@triton.jit
def _bits_of_groups(columns_ptr, start, length, done):
    """Bits of four groups of entries of each row from group ``done`` on, uint32 ``[rows, 8]``."""
    group = done + tl.arange(0, 4)[None, :, None]
    entry = tl.arange(0, 8)[None, None, :]
    columns = tl.load(
        columns_ptr + (start[:, None, None] + group) * 8 + entry,
        mask=group < length[:, None, None],
        other=0,
    ).to(tl.uint32)
    # Only padding names column 0 after the first entry; every real column occurs once.
    real = (columns != 0) | ((group * 8 + entry == 0) & (length > 0)[:, None, None])
    bits = tl.where(real, 1 << (columns & 31), 0).to(tl.uint32)
    word = columns >> 5
    even = tl.join(_two_words(bits, word, 0, 4), _two_words(bits, word, 2, 6))
    odd = tl.join(_two_words(bits, word, 1, 5), _two_words(bits, word, 3, 7))
    return tl.reshape(tl.join(even, odd), [start.shape[0], 8])


@triton.jit
def _two_words(bits, word, first: tl.constexpr, second: tl.constexpr):
    first_bits = tl.sum(tl.sum(tl.where(word == first, bits, 0), 2), 1)
    second_bits = tl.sum(tl.sum(tl.where(word == second, bits, 0), 2), 1)
    return tl.join(first_bits, second_bits)
