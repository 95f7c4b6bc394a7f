"""Which sequence, slots and tiles a program of the Triton kernels has, found on the device."""

import triton
import triton.language as tl


@triton.jit
def sequence_of(starts_ptr, num_seqs, index, BLOCK_Q: tl.constexpr):
    """The last sequence whose first block of ``BLOCK_Q`` queries is not after block ``index``.

    Sequence ``s`` has the blocks from ``starts[s] // BLOCK_Q + s`` on: enough for its queries, and
    a number that needs no prefix sum over the other sequences' blocks.
    """
    low = 0
    high = num_seqs
    while low < high:
        middle = (low + high) // 2
        if tl.load(starts_ptr + middle) // BLOCK_Q + middle <= index:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def visible_slots(
    seq_len, num_queries, first_query, window, BLOCK_Q: tl.constexpr, HAS_WINDOW: tl.constexpr
):
    """What a block of queries sees: its first slot, one past its last, its first query's slot."""
    first_slot = seq_len - num_queries + first_query
    end = tl.maximum(tl.minimum(first_slot + BLOCK_Q, seq_len), 0)
    begin = 0
    if HAS_WINDOW:
        begin = tl.maximum(first_slot - window + 1, 0)
    return begin, end, first_slot


@triton.jit
def split_tiles(begin, end, num_splits, BLOCK_N: tl.constexpr, MIN_TILES: tl.constexpr):
    """Tiles that each split of a block has (the last may have fewer), and splits with any."""
    tiles = tl.cdiv(end - begin, BLOCK_N)
    each = tl.maximum(tl.cdiv(tiles, num_splits), MIN_TILES)
    return each, tl.cdiv(tiles, each)


@triton.jit
def plain_tiles(
    begin,
    end,
    first_slot,
    window,
    first_tile,
    last_tile,
    BLOCK_N: tl.constexpr,
    ONE_QUERY: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    """Of a program's tiles, the first whose every slot is seen by every query, and the first after
    those that is not. One query alone sees what its window begins with, so only its end counts;
    its few masks cost less than a second loop, and it is given none of these tiles."""
    plain = first_tile
    edge = first_tile
    if not ONE_QUERY:
        if HAS_WINDOW:
            plain = tl.cdiv(tl.maximum(end - window, begin) - begin, BLOCK_N)
            plain = tl.minimum(tl.maximum(plain, first_tile), last_tile)
        edge = (tl.maximum(first_slot + 1, begin) - begin) // BLOCK_N
        edge = tl.minimum(tl.maximum(edge, plain), last_tile)
    return plain, edge
