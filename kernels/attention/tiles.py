"""Tile sizes and split counts of the Triton kernels: plain arithmetic, testable anywhere.

They are chosen here and not by ``triton.autotune``, which would launch every candidate at the
first call of each shape, and cannot be captured in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

# Bytes of keys and values that a tile of a decode step brings in: large enough that few barriers
# come on a byte, small enough that three programs of three stages fit a multiprocessor.
_DECODE_TILE_BYTES = 32768
# Slots of such a tile at most: of as many as threads, Triton would pass page numbers around between
# threads, by four more barriers, where of fewer each thread looks up its own.
_DECODE_SLOTS = 64
# Programs of a decode step per multiprocessor: two or three run there at a time, and sequences of
# unlike lengths even out over the rest.
_DECODE_PROGRAMS = 8
# Shared memory that CUDA keeps for itself in each program.
_RESERVED_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Target:
    """The device that kernels are chosen for.

    Attributes:
        capability: compute capability, ``10 * major + minor``.
        num_multiprocessors: how many programs run side by side at least.
        shared_memory: bytes a program may take, which is about what a multiprocessor has.
    """

    capability: int
    num_multiprocessors: int
    shared_memory: int


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of one layer, and their element size in bytes."""

    num_kv_heads: int
    group: int
    key_dim: int
    value_dim: int
    itemsize: int

    @property
    def key_columns(self) -> int:
        return padded(self.key_dim)

    @property
    def value_columns(self) -> int:
        return padded(self.value_dim)

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot of one KV head in a tile, padding included."""
        return (self.key_columns + self.value_columns) * self.itemsize


@dataclass(frozen=True, slots=True)
class Tiles:
    """What one program of the attention kernel works on.

    Attributes:
        block_m: rows of the score tile: queries times heads of one KV group.
        block_n: slots of a tile, whatever the page size.
        min_tiles: tiles a split has at least; fewer would not pay for its partial result.
        num_warps, num_stages: as Triton names them.
    """

    block_m: int
    block_n: int
    min_tiles: int
    num_warps: int
    num_stages: int

    def block_h(self, group: int) -> int:
        """Heads of a KV group in a program."""
        return min(group, self.block_m)

    def block_q(self, group: int) -> int:
        """Queries in a program."""
        return self.block_m // self.block_h(group)


def padded(dim: int) -> int:
    """Columns of a tile for heads of ``dim``: a power of two that a tensor core can take."""
    return max(16, 1 << (dim - 1).bit_length())


def decode_tiles(heads: Heads, target: Target) -> Tiles:
    """Tiles of one query a sequence, which waits for memory: what counts is bytes in flight."""
    block_m = min(max(16, 1 << (heads.group - 1).bit_length()), 64)
    if not _has_tensor_cores(heads, target):
        tiles = Tiles(block_m=16, block_n=16, min_tiles=8, num_warps=4, num_stages=3)
        return _shrunk(tiles, heads, target, target.shared_memory)
    block_n = 1 << (_DECODE_TILE_BYTES // heads.slot_bytes).bit_length() - 1
    block_n = min(max(block_n, 16), _DECODE_SLOTS)
    tiles = Tiles(block_m, block_n, min_tiles=2, num_warps=4, num_stages=3)
    return _shrunk(tiles, heads, target, target.shared_memory // 2 - _RESERVED_BYTES)


def prefill_tiles(heads: Heads, target: Target, *, plain: bool) -> Tiles:
    """Tiles of several queries a sequence, which wait for the tensor cores.

    128 rows, because that many share each byte that is read: with 64 the L2 cache could not feed
    Hopper's tensor cores. More slots a tile spare rescaling, up to what the registers hold.

    Args:
        plain: without window and soft-cap, which take registers too.
    """
    columns = max(heads.key_columns, heads.value_columns)
    if not _has_tensor_cores(heads, target):
        tiles = Tiles(block_m=16, block_n=16, min_tiles=16, num_warps=4, num_stages=2)
    elif _is_hopper(target):
        if columns <= 64 or (columns <= 128 and plain):
            tiles = Tiles(block_m=128, block_n=128, min_tiles=4, num_warps=8, num_stages=3)
        elif columns <= 128:
            tiles = Tiles(block_m=128, block_n=64, min_tiles=8, num_warps=8, num_stages=4)
        elif heads.value_columns <= 128:
            tiles = Tiles(block_m=128, block_n=64, min_tiles=8, num_warps=8, num_stages=3)
        else:
            tiles = Tiles(block_m=128, block_n=32, min_tiles=16, num_warps=8, num_stages=4)
    elif columns <= 128:
        block_n = 64 if columns <= 64 else 32
        tiles = Tiles(128, block_n, min_tiles=512 // block_n, num_warps=8, num_stages=3)
    else:
        tiles = Tiles(block_m=64, block_n=32, min_tiles=16, num_warps=8, num_stages=3)
    return _shrunk(tiles, heads, target, target.shared_memory)


def shared_bytes(tiles: Tiles, heads: Heads, target: Target) -> int:
    """Shared memory that Triton takes for a program; an upper bound that is close to it."""
    queries = tiles.block_m * heads.key_columns * heads.itemsize
    weights = tiles.block_m * tiles.block_n * heads.itemsize
    buffer = tiles.block_n * heads.slot_bytes
    if _is_hopper(target) and _has_tensor_cores(heads, target) and tiles.block_m >= 64:
        # Products of warp groups keep weights in registers, and read a tile while others arrive.
        return queries + tiles.num_stages * buffer
    return queries + weights + (tiles.num_stages - 1) * buffer + _RESERVED_BYTES


def decode_splits(programs: int, max_slots: int, tiles: Tiles, target: Target) -> int:
    """Parts that a sequence's slots are cut into in a decode step.

    A function of shapes and bounds alone, as a CUDA graph needs; on the device a sequence uses as
    many of the parts as it has slots for.

    Args:
        programs: programs of a launch that does not split.
        max_slots: slots a query sees at most.
    """
    return _splits(-(-_DECODE_PROGRAMS * target.num_multiprocessors // programs), max_slots, tiles)


def prefill_splits(programs: int, max_slots: int, tiles: Tiles, target: Target) -> int:
    """As :func:`decode_splits`, for a short prompt over many cached slots: as many as run at once,
    for these programs fill a multiprocessor each and cannot share it."""
    return _splits(target.num_multiprocessors // programs, max_slots, tiles)


def _splits(wanted: int, max_slots: int, tiles: Tiles) -> int:
    most = -(-max_slots // (tiles.block_n * tiles.min_tiles))
    return max(1, min(wanted, most))


def _shrunk(tiles: Tiles, heads: Heads, target: Target, shared_memory: int) -> Tiles:
    while tiles.block_n > 16 and shared_bytes(tiles, heads, target) > shared_memory:
        tiles = replace(tiles, block_n=tiles.block_n // 2, min_tiles=tiles.min_tiles * 2)
    while tiles.num_stages > 1 and shared_bytes(tiles, heads, target) > target.shared_memory:
        tiles = replace(tiles, num_stages=tiles.num_stages - 1)
    return tiles


def _has_tensor_cores(heads: Heads, target: Target) -> bool:
    """Whether Triton multiplies on tensor cores; in float32 they would round to 10 bits."""
    return heads.itemsize == 2 and target.capability >= 80


def _is_hopper(target: Target) -> bool:
    return 90 <= target.capability < 100
