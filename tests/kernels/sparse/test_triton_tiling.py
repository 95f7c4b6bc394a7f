"""The arithmetic that cuts sparse products into programs."""

import math

from gistserve.kernels.sparse.triton_tiling import (
    ACCUMULATORS,
    BITMAP_ROWS,
    MAX_RAGGED_STEPS,
    MAX_STEPS,
    MAX_TILE_SEGMENTS,
    PROGRAMS_PER_MULTIPROCESSOR,
    ROWS,
    THREADS,
    SegmentedTiling,
    bitmap_splits,
    segmented_tiling,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
num_rows = st.integers(1, 200_000)
segments = st.integers(1, 300)
batches = st.integers(1, 8)
multiprocessors = st.integers(1, 200)


def assert_covers(tiling: SegmentedTiling, num_rows: int, segments: int, sms: int) -> None:
    """Every segment belongs to one split, and the device is filled where splits allow it."""
    assert tiling.rows in ROWS and tiling.rows * tiling.lanes == THREADS == 32 * tiling.num_warps
    assert (tiling.splits - 1) * tiling.split_segments < segments
    assert segments <= tiling.splits * tiling.split_segments
    assert 1 <= tiling.tile_segments <= min(MAX_TILE_SEGMENTS, tiling.split_segments)
    programs = math.ceil(num_rows / tiling.rows) * tiling.splits
    if programs < PROGRAMS_PER_MULTIPROCESSOR * sms:
        assert tiling.rows == ROWS[-1]
        # Rounding up what a split takes can lose at most half of the splits.
        assert tiling.split_segments <= 2 or 2 * programs >= PROGRAMS_PER_MULTIPROCESSOR * sms


@unhurried
@given(num_rows, segments, st.integers(1, 32), batches, multiprocessors)
def test_balanced_tiles_fit_one_pass(num_rows, segments, groups, batch, sms):
    tiling = segmented_tiling(
        num_rows, segments, groups, balanced=True, batch=batch, num_multiprocessors=sms
    )
    assert_covers(tiling, num_rows, segments, sms)
    entries, room = tiling.tile_segments * groups, tiling.steps * tiling.lanes
    assert entries <= room < entries + tiling.lanes
    assert tiling.exact == (
        entries == room
        and segments % tiling.split_segments == 0
        and tiling.split_segments % tiling.tile_segments == 0
    )


@unhurried
@given(num_rows, segments, st.floats(0, 32), batches, multiprocessors, st.booleans())
def test_sums_fit_the_registers(num_rows, segments, groups, batch, sms, balanced):
    tiling = segmented_tiling(
        num_rows, segments, groups, balanced=balanced, batch=batch, num_multiprocessors=sms
    )
    assert_covers(tiling, num_rows, segments, sms)
    assert balanced or not tiling.exact
    if tiling.tile_segments > 1:
        vectors = 1 << (batch - 1).bit_length()
        assert 8 * tiling.steps * vectors <= ACCUMULATORS
        assert tiling.steps <= (MAX_STEPS if balanced else MAX_RAGGED_STEPS)


def test_a_real_layer_needs_no_second_kernel():
    """4096 x 4096 at 90 % on an H100 or H200: two programs for nearly every multiprocessor."""
    tiling = segmented_tiling(4096, 16, 3, balanced=True, batch=1, num_multiprocessors=132)
    assert tiling == SegmentedTiling(16, 16, 3, 16, 1, 16, exact=True)


@unhurried
@given(num_rows, st.integers(1, 1000), st.integers(1, 64), multiprocessors)
def test_bitmap_splits_cover_all_tiles(num_rows, tiles, batch, sms):
    splits, split_tiles = bitmap_splits(num_rows, tiles, batch, sms)
    assert (splits - 1) * split_tiles < tiles <= splits * split_tiles
    blocks = math.ceil(num_rows / BITMAP_ROWS)
    if blocks * splits < 2 * sms:
        assert split_tiles <= 2 or blocks * splits >= sms
    else:
        # No more partial sums than the device needs to be filled.
        assert splits == 1 or blocks * (splits - 1) < 4 * sms
