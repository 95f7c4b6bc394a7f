"""Triton kernel: a few vectors times a weight in segmented rows.

A program multiplies ``ROWS`` rows, a tile of segments at a time. The tile's part of ``x`` goes to
shared memory, because every non-zero looks up its own column: 32 look-ups by the threads of a warp
cost there about as many cycles as their fullest memory bank has look-ups, whichever cache lines
they hit. Up to four batch rows of 16-bit values share a word, so that one look-up serves them all.

A thread takes whole groups of 8 entries: 8 bytes of columns and 16 bytes of values, each in one
load. ``LANES`` neighbouring threads take neighbouring groups of one row, ``STEPS`` times.
"""

import triton
import triton.language as tl
from torch import Tensor

from .segmented_rows import GROUP, SegmentedRows
from .triton_alignment import aligned, rows_contiguous
from .triton_partials import allocate_partials, reduce_partials
from .triton_tiling import SegmentedTiling, multiprocessors, segmented_tiling

MAX_BATCH = 8
"""Vectors of one launch; each keeps its own accumulators in registers."""


def segmented_matvec(x: Tensor, weight: SegmentedRows, bias: Tensor | None = None) -> Tensor:
    """``x @ W.T + bias`` for few vectors, accumulated in float32.

    Args:
        x: ``[B, K]`` with ``1 <= B <= 8``, in the dtype of the weight's values; unit stride along
            ``K``.
        weight: ``[N, K]``, balanced or ragged.
        bias: ``[N]`` or None.

    Returns:
        ``[B, N]`` in the dtype of ``x``. The result is the same in every run: no atomics.
    """
    groups = weight.values.numel() // GROUP
    num_rows, segments = weight.shape[0], weight.segments
    tiling = segmented_tiling(
        num_rows,
        segments,
        groups / (num_rows * segments),
        balanced=weight.is_balanced,
        batch=len(x),
        num_multiprocessors=multiprocessors(x.device),
    )
    return launch_segmented(x, weight, bias, tiling)


def launch_segmented(
    x: Tensor, weight: SegmentedRows, bias: Tensor | None, tiling: SegmentedTiling
) -> Tensor:
    """``segmented_matvec`` with a given tiling."""
    (num_rows, num_columns), batch = weight.shape, len(x)
    x = rows_contiguous(x)
    out = x.new_empty(batch, num_rows)
    partials = allocate_partials(out, tiling.splits)
    target, fused_bias = (out, bias) if partials is None else (partials, None)
    segmented_kernel[(triton.cdiv(num_rows, tiling.rows), tiling.splits)](
        x,
        aligned(weight.columns),
        aligned(weight.values),
        weight.offsets,
        fused_bias,
        target,
        num_rows,
        num_columns,
        weight.segments,
        x.stride(0),
        batch,
        tiling.split_segments,
        COUNT=(weight.count or 0) // GROUP,
        BATCH=triton.next_power_of_2(batch),
        ROWS=tiling.rows,
        LANES=tiling.lanes,
        STEPS=tiling.steps,
        TILE=tiling.tile_segments,
        EXACT=tiling.exact,
        num_warps=tiling.num_warps,
        enable_fp_fusion=True,
    )
    if partials is not None:
        reduce_partials(partials, bias, out)
    return out


@triton.jit(do_not_specialize=["segments", "batch", "split_segments"])
def segmented_kernel(
    x_ptr,
    columns_ptr,
    values_ptr,
    offsets_ptr,
    bias_ptr,
    out_ptr,
    num_rows,
    num_columns,
    segments,
    x_stride,
    batch,
    split_segments,
    COUNT: tl.constexpr,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    STEPS: tl.constexpr,
    TILE: tl.constexpr,
    EXACT: tl.constexpr,
):
    """One block of rows times one range of segments. ``COUNT``: groups a segment, 0 if ragged."""
    # One axis of groups, so that Triton can only give neighbouring groups to neighbouring threads,
    # and a thread one group of each step.
    PADDED_STEPS: tl.constexpr = triton.next_power_of_2(STEPS)
    slot = tl.arange(0, PADDED_STEPS * ROWS * LANES)
    step = slot // (ROWS * LANES)
    group = step * LANES + slot % LANES
    taken = step < STEPS
    row = tl.program_id(0) * ROWS + slot // LANES % ROWS
    # Rows past the end repeat the last one and are not stored: cheaper than masking every load.
    first_segment = tl.minimum(row, num_rows - 1) * segments
    begin = tl.program_id(1) * split_segments
    end = tl.minimum(begin + split_segments, segments)

    sums = tl.zeros([PADDED_STEPS * ROWS * LANES, 8, BATCH], tl.float32)
    for segment in range(begin, end, TILE):
        column = segment * 256
        width = tl.minimum(end - segment, TILE)
        if COUNT > 0:
            place = (first_segment + segment) * COUNT + group
            present = taken
            if not EXACT:
                present = present & (group < width * COUNT)
            tile_segment = tl.minimum(group // COUNT, TILE - 1)
            sums = _add_products(
                sums, x_ptr, columns_ptr, values_ptr, num_columns, x_stride, batch,
                column, place, tile_segment, present, taken, TILE,
            )  # fmt: skip
        else:
            bounds_ptr = offsets_ptr + first_segment + segment
            start = tl.load(bounds_ptr)
            stop = tl.load(bounds_ptr + width)
            for done in range(0, tl.max(stop - start, 0), STEPS * LANES):
                place = start + done + group
                present = taken & (place < stop)
                tile_segment = _segment_of(place, bounds_ptr, width, TILE)
                sums = _add_products(
                    sums, x_ptr, columns_ptr, values_ptr, num_columns, x_stride, batch,
                    column, place, tile_segment, present, taken, TILE,
                )  # fmt: skip

    total = tl.reshape(tl.sum(sums, 1), [PADDED_STEPS, ROWS, LANES, BATCH])
    total = tl.sum(tl.sum(total, 2), 0)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + row, mask=row < num_rows)[:, None].to(tl.float32)
    vector = tl.arange(0, BATCH)[None, :]
    out_row = tl.program_id(1) * batch + vector
    mask = (row < num_rows)[:, None] & (vector < batch)
    tl.store(
        out_ptr + out_row * num_rows + row[:, None], total.to(out_ptr.dtype.element_ty), mask=mask
    )


@triton.jit
def _segment_of(place, bounds_ptr, width, TILE: tl.constexpr):
    """Which of a tile's segments holds each group ``place``: bisection of their bounds."""
    segment = tl.zeros_like(place)
    LARGEST: tl.constexpr = triton.next_power_of_2(TILE) // 2
    for halving in tl.static_range(LARGEST.bit_length()):
        probe = segment + (LARGEST >> halving)
        bound = tl.load(bounds_ptr + tl.minimum(probe, width))
        segment = tl.where((probe < width) & (bound <= place), probe, segment)
    return segment


@triton.jit
def _add_products(
    sums,
    x_ptr,
    columns_ptr,
    values_ptr,
    num_columns,
    x_stride,
    batch,
    column,
    place,
    tile_segment,
    present,
    taken,
    TILE: tl.constexpr,
):
    """Add to ``sums`` ``[groups, 8, batch]`` what the entries of the groups ``place`` give."""
    GROUPS: tl.constexpr = sums.shape[0]
    BATCH: tl.constexpr = sums.shape[2]
    word = place[:, None] * 2 + tl.arange(0, 2)[None, :]
    words = tl.load(
        columns_ptr.to(tl.pointer_type(tl.uint32)) + word, mask=present[:, None], other=0
    )
    even = tl.join(words & 0xFF, (words >> 16) & 0xFF)
    odd = tl.join((words >> 8) & 0xFF, words >> 24)
    columns = tl.reshape(tl.join(even, odd), [GROUPS, 8]).to(tl.int32)
    index = tl.reshape((tile_segment * 256)[:, None] + columns, [GROUPS * 8])
    values = tl.reshape(_load_values(values_ptr, place, present), [GROUPS, 8, 1])
    x = _look_up(x_ptr, x_stride, batch, num_columns, column, index, TILE, BATCH)
    x = tl.reshape(x, [GROUPS, 8, BATCH])
    return tl.where(taken[:, None, None], sums + values * x, sums)


@triton.jit
def _load_values(values_ptr, place, present):
    """The values of groups ``place`` as float32 ``[groups, ...]`` in some shape of 8."""
    part = tl.arange(0, 4)[None, :]
    if values_ptr.dtype.element_ty == tl.float32:
        pointers = values_ptr + place[:, None] * 8 + part
        low = tl.load(pointers, mask=present[:, None], other=0)
        high = tl.load(pointers + 4, mask=present[:, None], other=0)
        values = tl.permute(tl.join(low, high), (0, 2, 1))
    else:
        pointers = values_ptr.to(tl.pointer_type(tl.uint32)) + place[:, None] * 4 + part
        words = tl.load(pointers, mask=present[:, None], other=0)
        values = unpack_pair(words, values_ptr.dtype.element_ty)
    return values


@triton.jit
def _look_up(
    x_ptr,
    stride,
    batch,
    num_columns,
    column,
    index,
    TILE: tl.constexpr,
    BATCH: tl.constexpr,
):
    """``x[:, column + index]`` as float32 ``[len(index), ..., BATCH in some shape]``."""
    if BATCH == 1:
        x = _load_x(x_ptr, stride, batch, num_columns, column, 0, TILE)
        found = tl.gather(x.to(tl.float32), index, 0)
    elif BATCH == 2:
        found = _look_up_pair(x_ptr, stride, batch, num_columns, column, index, 0, TILE)
    elif BATCH == 4:
        found = _look_up_quad(x_ptr, stride, batch, num_columns, column, index, 0, TILE)
    else:
        low = _look_up_quad(x_ptr, stride, batch, num_columns, column, index, 0, TILE)
        high = _look_up_quad(x_ptr, stride, batch, num_columns, column, index, 4, TILE)
        found = tl.permute(tl.join(low, high), (0, 3, 1, 2))
    return found


@triton.jit
def _look_up_quad(
    x_ptr, stride, batch, num_columns, column, index, first: tl.constexpr, TILE: tl.constexpr
):
    """Batch rows ``first`` to ``first + 3`` of ``x`` at ``index``, ``[len(index), 2, 2]``."""
    if x_ptr.dtype.element_ty == tl.float32:
        low = _look_up_pair(x_ptr, stride, batch, num_columns, column, index, first, TILE)
        high = _look_up_pair(x_ptr, stride, batch, num_columns, column, index, first + 2, TILE)
    else:
        low = _pack_pair(x_ptr, stride, batch, num_columns, column, first, TILE)
        high = _pack_pair(x_ptr, stride, batch, num_columns, column, first + 2, TILE)
        words = tl.gather(low.to(tl.uint64) | (high.to(tl.uint64) << 32), index, 0)
        low = unpack_pair(words.to(tl.uint32), x_ptr.dtype.element_ty)
        high = unpack_pair((words >> 32).to(tl.uint32), x_ptr.dtype.element_ty)
    return tl.permute(tl.join(low, high), (0, 2, 1))


@triton.jit
def _look_up_pair(
    x_ptr, stride, batch, num_columns, column, index, first: tl.constexpr, TILE: tl.constexpr
):
    """Batch rows ``first`` and ``first + 1`` of ``x`` at ``index``, ``[len(index), 2]``."""
    if x_ptr.dtype.element_ty == tl.float32:
        low = _load_x(x_ptr, stride, batch, num_columns, column, first, TILE)
        high = _load_x(x_ptr, stride, batch, num_columns, column, first + 1, TILE)
        low = tl.gather(low, index, 0)
        high = tl.gather(high, index, 0)
        found = tl.join(low, high)
    else:
        words = _pack_pair(x_ptr, stride, batch, num_columns, column, first, TILE)
        found = unpack_pair(tl.gather(words, index, 0), x_ptr.dtype.element_ty)
    return found


@triton.jit
def _pack_pair(x_ptr, stride, batch, num_columns, column, first: tl.constexpr, TILE: tl.constexpr):
    low = _load_x(x_ptr, stride, batch, num_columns, column, first, TILE)
    high = _load_x(x_ptr, stride, batch, num_columns, column, first + 1, TILE)
    low = low.to(tl.uint16, bitcast=True).to(tl.uint32)
    return low | (high.to(tl.uint16, bitcast=True).to(tl.uint32) << 16)


@triton.jit
def _load_x(x_ptr, stride, batch, num_columns, column, vector: tl.constexpr, TILE: tl.constexpr):
    columns = column + tl.arange(0, triton.next_power_of_2(TILE) * 256)
    pointers = x_ptr + tl.minimum(vector, batch - 1) * stride + columns
    if num_columns is None:
        x = tl.load(pointers)
    else:
        x = tl.load(pointers, mask=columns < num_columns, other=0)
    return x


@triton.jit
def unpack_pair(words, dtype: tl.constexpr):
    """Two 16-bit floats in each uint32, the lower half first, as float32 ``[..., 2]``."""
    if dtype == tl.bfloat16:
        low = (words << 16).to(tl.float32, bitcast=True)
        high = (words & 0xFFFF0000).to(tl.float32, bitcast=True)
    else:
        low = (words & 0xFFFF).to(tl.uint16).to(dtype, bitcast=True).to(tl.float32)
        high = (words >> 16).to(tl.uint16).to(dtype, bitcast=True).to(tl.float32)
    return tl.join(low, high)
