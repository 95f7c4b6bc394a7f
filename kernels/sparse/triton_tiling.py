"""How the sparse Triton kernels cut a weight into programs: plain arithmetic, no measuring.

Nothing is tuned at run time, so that a launch depends only on shapes and a captured graph repeats
what was tested.
"""

import functools
import math
from dataclasses import dataclass

import torch

NUM_WARPS = 8
THREADS = 32 * NUM_WARPS

ROWS = (16, 8, 4)
"""Rows of a program, the favoured number first: all rows share the look-up table of ``x``."""

PROGRAMS_PER_MULTIPROCESSOR = 1.75
"""Two, but for a small rest: with fewer a multiprocessor idles while its program waits."""

ACCUMULATORS = 64
"""float32 registers of a thread that may hold sums; with what else is alive none spills."""

MAX_STEPS = 6
MAX_RAGGED_STEPS = 3
"""Looking for the segment of every group takes registers too: with more steps the second program
of a multiprocessor has none left."""

MAX_TILE_SEGMENTS = 16
"""4,096 columns of ``x``: 16 KiB of shared memory for one vector, 32 KiB for two words of four."""

# About what a step, a tile and a column of it cost a thread in instructions of sm_90, one vector.
STEP_COST = 60
TILE_COST = 70
COLUMN_COST = 2.0


BITMAP_ROWS = 64
BITMAP_WARPS = 4


@dataclass(frozen=True)
class SegmentedTiling:
    """How a product with segmented rows is cut.

    Attributes:
        rows: of a program.
        lanes: threads that share a row; ``rows * lanes`` is the number of threads.
        steps: groups of 8 entries that a thread takes of a tile.
        tile_segments: segments of a tile, whose columns of ``x`` lie in shared memory together.
        splits: ranges of segments that different programs take.
        split_segments: segments of such a range.
        exact: balanced, and every tile fills every thread, so that no load needs a mask.
        num_warps: of a program.
    """

    rows: int
    lanes: int
    steps: int
    tile_segments: int
    splits: int
    split_segments: int
    exact: bool
    num_warps: int = NUM_WARPS


def segmented_tiling(
    num_rows: int,
    segments: int,
    groups: float,
    *,
    balanced: bool,
    batch: int,
    num_multiprocessors: int,
) -> SegmentedTiling:
    """The tiling for a weight of ``num_rows`` rows of ``segments`` segments.

    Args:
        groups: groups of 8 entries a segment; the mean over all where the weight is ragged.
        balanced: whether every segment has ``groups``.
        batch: vectors.
        num_multiprocessors: of the device.
    """
    wanted = PROGRAMS_PER_MULTIPROCESSOR * num_multiprocessors
    rows = next((r for r in ROWS if math.ceil(num_rows / r) >= wanted), ROWS[-1])
    splits = max(1, min(segments, math.ceil(wanted / math.ceil(num_rows / rows))))
    split_segments = math.ceil(segments / splits)
    lanes = THREADS // rows
    steps, tile = _tile(split_segments, groups, lanes, balanced=balanced, batch=batch)
    return SegmentedTiling(
        rows=rows,
        lanes=lanes,
        steps=steps,
        tile_segments=tile,
        splits=math.ceil(segments / split_segments),
        split_segments=split_segments,
        exact=balanced
        and steps * lanes == tile * groups
        and segments % split_segments == 0
        and split_segments % tile == 0,
    )


def _tile(
    segments: int, groups: float, lanes: int, *, balanced: bool, batch: int
) -> tuple[int, int]:
    """Steps and segments of a tile that need the fewest instructions for ``segments``."""
    vectors = _power_of_2(batch)
    limit = MAX_STEPS if balanced else MAX_RAGGED_STEPS
    limit = max(1, min(limit, ACCUMULATORS // (8 * vectors)))
    best, cheapest = (1, 1), math.inf
    for tile in range(1, min(segments, MAX_TILE_SEGMENTS) + 1):
        room = _room(tile * groups, balanced)
        steps = max(1, math.ceil(room / lanes))
        if steps > limit and tile > 1:
            break
        columns = _power_of_2(tile) * 256 // THREADS
        cost = TILE_COST + COLUMN_COST * columns * vectors + STEP_COST * steps
        cost *= math.ceil(segments / tile)
        if cost <= cheapest:
            best, cheapest = (steps, tile), cost
    return best


def _room(groups: float, balanced: bool) -> float:
    """Groups of a row's tile that one pass should have room for.

    Where entries lie at random their number has about this deviation; what does not fit takes
    another pass.
    """
    return groups if balanced else groups + math.sqrt(groups)


def bitmap_splits(
    num_rows: int, tiles: int, batch: int, num_multiprocessors: int
) -> tuple[int, int]:
    """In how many ranges of how many tiles ``bitmap_matmul`` cuts the columns.

    Four programs a multiprocessor hide the two loads that each tile waits for; large batches get
    by with two, because their partial sums cost more to write and add.
    """
    wanted = (4 if batch <= 16 else 2) * num_multiprocessors
    splits = max(1, min(tiles, math.ceil(wanted / math.ceil(num_rows / BITMAP_ROWS))))
    split_tiles = math.ceil(tiles / splits)
    return math.ceil(tiles / split_tiles), split_tiles


def _power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Of a CUDA device; a small number for the CPU, where kernels run in tests only."""
    if device.type != "cuda":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count
