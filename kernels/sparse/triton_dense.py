"""Triton kernels: sparse weights as dense ones, for batches too large for the other kernels."""

import triton
import triton.language as tl
from torch import Tensor

from .bitmap_tiles import TILE_COLUMNS, BitmapTiles
from .segmented_rows import GROUP, SEGMENT, SegmentedRows
from .triton_bitmap import load_bytes
from .triton_decode import count_byte, decode_bytes

BITMAP_ROWS = 64
SEGMENTED_ROWS = 32


def bitmap_to_dense(weight: BitmapTiles) -> Tensor:
    """``[N, K]`` in the dtype of the values, zero where nothing is kept."""
    bitmap = weight.bitmap
    num_rows, num_columns = weight.shape
    out = bitmap.values.new_empty(num_rows, num_columns)
    tiles = weight.offsets.shape[1]
    bitmap_to_dense_kernel[(tiles, triton.cdiv(num_rows, BITMAP_ROWS))](
        bitmap.bitmap,
        bitmap.values,
        weight.offsets,
        out,
        num_rows,
        num_columns,
        bitmap.bitmap.shape[1],
        tiles,
        ROWS=BITMAP_ROWS,
        EVEN=num_columns % TILE_COLUMNS == 0,
        num_warps=4,
    )
    return out


def segmented_to_dense(weight: SegmentedRows) -> Tensor:
    """``[N, K]`` in the dtype of the values, zero where nothing is kept."""
    num_rows, num_columns = weight.shape
    out = weight.values.new_empty(num_rows, num_columns)
    segmented_to_dense_kernel[(weight.segments, triton.cdiv(num_rows, SEGMENTED_ROWS))](
        weight.columns,
        weight.values,
        weight.offsets,
        out,
        num_rows,
        num_columns,
        weight.segments,
        COUNT=(weight.count or 0) // GROUP,
        ROWS=SEGMENTED_ROWS,
        EVEN=num_columns % SEGMENT == 0,
        num_warps=4,
    )
    return out


@triton.jit
def bitmap_to_dense_kernel(
    bitmap_ptr,
    values_ptr,
    offsets_ptr,
    out_ptr,
    num_rows,
    num_columns,
    row_bytes,
    tiles,
    ROWS: tl.constexpr,
    EVEN: tl.constexpr,
):
    """One tile of 64 columns of one block of rows."""
    tile = tl.program_id(0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    valid_row = tl.minimum(row, num_rows - 1)
    byte = load_bytes(bitmap_ptr + valid_row[:, None] * row_bytes, tile, row_bytes, EVEN)
    counts = count_byte(byte)
    first = tl.load(offsets_ptr + valid_row * tiles + tile)[:, None]
    first += tl.cumsum(counts, 1) - counts
    dense = tl.reshape(decode_bytes(values_ptr, first, byte), [ROWS, 64])
    _store(out_ptr, dense, row, tile * 64, num_rows, num_columns)


@triton.jit
def segmented_to_dense_kernel(
    columns_ptr,
    values_ptr,
    offsets_ptr,
    out_ptr,
    num_rows,
    num_columns,
    segments,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    EVEN: tl.constexpr,
):
    """One segment of one block of rows: its columns become a bitmap, which is decoded.

    Writing each entry where it belongs would be simpler, but one store of two bytes each costs
    several times what the whole dense matrix does.
    """
    segment = tl.program_id(0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    place = tl.minimum(row, num_rows - 1) * segments + segment
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
        words += _bitmap_words(columns_ptr, start, length, done)
    byte = (words[:, :, None] >> (8 * tl.arange(0, 4)).to(tl.uint32)[None, None, :]) & 0xFF
    byte = tl.reshape(byte, [ROWS, 32])
    counts = count_byte(byte)
    first = start[:, None] * 8 + tl.cumsum(counts, 1) - counts
    dense = tl.reshape(decode_bytes(values_ptr, first, byte), [ROWS, 256])
    _store(out_ptr, dense, row, segment * 256, num_rows, num_columns)


@triton.jit
def _bitmap_words(columns_ptr, start, length, done):
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
    low = tl.join(_word(bits, word, 0, 4), _word(bits, word, 2, 6))
    high = tl.join(_word(bits, word, 1, 5), _word(bits, word, 3, 7))
    return tl.reshape(tl.join(low, high), [start.shape[0], 8])


@triton.jit
def _word(bits, word, first: tl.constexpr, second: tl.constexpr):
    first_bits = tl.sum(tl.sum(tl.where(word == first, bits, 0), 2), 1)
    second_bits = tl.sum(tl.sum(tl.where(word == second, bits, 0), 2), 1)
    return tl.join(first_bits, second_bits)


@triton.jit
def _store(out_ptr, dense, row, column, num_rows, num_columns):
    columns = column + tl.arange(0, dense.shape[1])
    tl.store(
        out_ptr + row.to(tl.int64)[:, None] * num_columns + columns[None, :],
        dense,
        mask=(row < num_rows)[:, None] & (columns < num_columns)[None, :],
    )
