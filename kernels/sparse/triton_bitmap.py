"""Triton kernel: up to 64 vectors times a bitmap weight.

A program decodes a tile of ``ROWS`` rows by 64 columns into registers and multiplies it with its
columns of ``x`` on the tensor cores, so that the decoding is paid once for the whole batch. Bitmap
and offsets of the next tile are loaded while this one is decoded: its values can be loaded only
when its bits are known.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .bitmap_tiles import TILE_COLUMNS, BitmapTiles
from .triton_alignment import aligned, rows_contiguous
from .triton_decode import decode_words
from .triton_partials import allocate_partials, reduce_partials
from .triton_tiling import BITMAP_ROWS, BITMAP_WARPS, bitmap_splits, multiprocessors

MAX_BATCH = 64
"""Vectors of one launch; the accumulators of more would take most registers."""


def bitmap_matmul(x: Tensor, weight: BitmapTiles, bias: Tensor | None = None) -> Tensor:
    """``x @ W.T + bias`` for a small batch, accumulated in float32.

    Args:
        x: ``[B, K]`` with ``1 <= B <= 64``, in the dtype of the weight's values.
        weight: ``[N, K]``.
        bias: ``[N]`` or None.

    Returns:
        ``[B, N]`` in the dtype of ``x``. The result is the same in every run: no atomics.
    """
    (num_rows, num_columns), batch = weight.shape, len(x)
    x = rows_contiguous(x)
    bitmap, values = aligned(weight.bitmap.bitmap), aligned(weight.bitmap.values)
    tiles = weight.offsets.shape[1]
    splits, split_tiles = bitmap_splits(num_rows, tiles, batch, multiprocessors(x.device))
    out = x.new_empty(batch, num_rows)
    partials = allocate_partials(out, splits)
    target, fused_bias = (out, bias) if partials is None else (partials, None)
    bitmap_matmul_kernel[(triton.cdiv(num_rows, BITMAP_ROWS), splits)](
        x,
        bitmap,
        values,
        weight.offsets,
        fused_bias,
        target,
        num_rows,
        num_columns,
        bitmap.shape[1],
        tiles,
        x.stride(0),
        batch,
        split_tiles,
        ROWS=BITMAP_ROWS,
        BATCH=max(16, triton.next_power_of_2(batch)),
        EVEN=num_columns % TILE_COLUMNS == 0,
        # The interpreter's dot of bfloat16 is wrong.
        UPCAST=x.device.type == "cpu" and x.dtype == torch.bfloat16,
        num_warps=BITMAP_WARPS,
        num_stages=1,
        enable_fp_fusion=True,
    )
    if partials is not None:
        reduce_partials(partials, bias, out)
    return out


@triton.jit(do_not_specialize=["tiles", "batch", "split_tiles"])
def bitmap_matmul_kernel(
    x_ptr,
    bitmap_ptr,
    values_ptr,
    offsets_ptr,
    bias_ptr,
    out_ptr,
    num_rows,
    num_columns,
    row_bytes,
    tiles,
    x_stride,
    batch,
    split_tiles,
    ROWS: tl.constexpr,
    BATCH: tl.constexpr,
    EVEN: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """One block of rows times one range of tiles."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    # Rows past the end repeat the last one and are not stored: cheaper than masking every load.
    valid_row = tl.minimum(row, num_rows - 1)
    bytes_ptr = bitmap_ptr + valid_row[:, None] * row_bytes
    starts_ptr = offsets_ptr + valid_row * tiles
    vector = tl.arange(0, BATCH)
    column = tl.arange(0, 64)
    vectors_ptr = x_ptr + tl.minimum(vector, batch - 1)[None, :] * x_stride + column[:, None]

    begin = tl.program_id(1) * split_tiles
    end = tl.minimum(begin + split_tiles, tiles)
    next_word = load_words(bytes_ptr, begin, row_bytes, 2, EVEN)
    next_start = tl.load(starts_ptr + begin)
    sums = tl.zeros([ROWS, BATCH], tl.float32)
    for tile in range(begin, end):
        word, start = next_word, next_start
        following = tl.minimum(tile + 1, end - 1)
        next_word = load_words(bytes_ptr, following, row_bytes, 2, EVEN)
        next_start = tl.load(starts_ptr + following)
        weight = decode_words(values_ptr, start, word)
        if EVEN:
            x = tl.load(vectors_ptr + tile * 64)
        else:
            x = tl.load(
                vectors_ptr + tile * 64, mask=(tile * 64 + column < num_columns)[:, None], other=0
            )
        if UPCAST:
            weight, x = weight.to(tl.float32), x.to(tl.float32)
        sums = tl.dot(weight, x, sums, input_precision="ieee")

    if bias_ptr is not None:
        sums += tl.load(bias_ptr + valid_row)[:, None].to(tl.float32)
    out_row = tl.program_id(1) * batch + vector
    tl.store(
        out_ptr + out_row[None, :] * num_rows + row[:, None],
        sums.to(out_ptr.dtype.element_ty),
        mask=(row < num_rows)[:, None] & (vector < batch)[None, :],
    )


@triton.jit
def load_words(bytes_ptr, tile, row_bytes, WORDS: tl.constexpr, EVEN: tl.constexpr):
    """The bits of a tile's columns in each row ``bytes_ptr`` ``[rows, 1]``, uint32 [rows, WORDS].

    ``EVEN``: rows are whole tiles long, which for a PyTorch tensor means that words are aligned.
    """
    number = tile * WORDS + tl.arange(0, WORDS)[None, :]
    if EVEN:
        word = tl.load(bytes_ptr.to(tl.pointer_type(tl.uint32)) + number)
    else:
        # Rows may start anywhere, so that words must be put together.
        place = number * 4
        word = _load_byte(bytes_ptr, place, row_bytes)
        word |= _load_byte(bytes_ptr, place + 1, row_bytes) << 8
        word |= _load_byte(bytes_ptr, place + 2, row_bytes) << 16
        word |= _load_byte(bytes_ptr, place + 3, row_bytes) << 24
    return word


@triton.jit
def _load_byte(bytes_ptr, place, row_bytes):
    return tl.load(bytes_ptr + place, mask=place < row_bytes, other=0).to(tl.uint32)
