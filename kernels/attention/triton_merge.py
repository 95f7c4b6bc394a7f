"""The Triton kernel that merges what the splits of a block of queries found."""

import triton
import triton.language as tl

from .triton_constants import LOWEST
from .triton_ranges import sequence_of, split_tiles, visible_slots


@triton.jit(
    do_not_specialize=["window", "num_seqs", "num_splits"],
    do_not_specialize_on_alignment=["query_start_loc_ptr", "seq_lens_ptr"],
)
def merge_kernel(
    out_ptr,
    part_ptr,
    part_lse_ptr,
    query_start_loc_ptr,
    seq_lens_ptr,
    window,
    num_seqs,
    num_splits,
    HEADS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_COLUMNS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    MIN_TILES: tl.constexpr,
    SPLITS_BLOCK: tl.constexpr,
    ONE_QUERY: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    """One query of one head: the mean of the splits' outputs, weighted by their softmax sums."""
    block = tl.program_id(0)
    head = tl.program_id(1) % HEADS
    if ONE_QUERY:
        seq = block
        first_row = tl.load(query_start_loc_ptr + seq)
        first_query = 0
        query = 0
    else:
        seq = sequence_of(query_start_loc_ptr, num_seqs, block, BLOCK_Q)
        first_row = tl.load(query_start_loc_ptr + seq)
        first_query = (block - first_row // BLOCK_Q - seq) * BLOCK_Q
        query = first_query + tl.program_id(1) // HEADS
    num_queries = tl.load(query_start_loc_ptr + seq + 1) - first_row
    if ONE_QUERY:
        if num_queries != 1:
            return
    else:
        if (num_queries < 2) | (query >= num_queries):
            return
    seq_len = tl.load(seq_lens_ptr + seq)
    begin, end, _ = visible_slots(seq_len, num_queries, first_query, window, BLOCK_Q, HAS_WINDOW)
    _, used_splits = split_tiles(begin, end, num_splits, BLOCK_N, MIN_TILES)
    if used_splits <= 1:
        return

    row = (first_row + query).to(tl.int64)
    unit = seq.to(tl.int64) if ONE_QUERY else row
    first_part = (unit * HEADS + head) * num_splits
    columns = tl.arange(0, VALUE_COLUMNS)
    highest = tl.full([], LOWEST, tl.float32)
    total = tl.zeros([], tl.float32)
    acc = tl.zeros([VALUE_COLUMNS], tl.float32)
    for first_split in range(0, used_splits, SPLITS_BLOCK):
        splits = first_split + tl.arange(0, SPLITS_BLOCK)
        used = splits < used_splits
        lse = tl.load(part_lse_ptr + first_part + splits, mask=used, other=float("-inf"))
        parts = tl.load(
            part_ptr + (first_part + splits)[:, None] * VALUE_DIM + columns[None, :],
            mask=used[:, None] & (columns < VALUE_DIM)[None, :],
            other=0.0,
        )
        new_highest = tl.maximum(highest, tl.max(lse, 0))
        weights = tl.exp2(lse - new_highest)
        decay = tl.exp2(highest - new_highest)
        total = total * decay + tl.sum(weights, 0)
        acc = acc * decay + tl.sum(parts * weights[:, None], 0)
        highest = new_highest
    tl.store(
        out_ptr + (row * HEADS + head) * VALUE_DIM + columns,
        (acc / total).to(out_ptr.dtype.element_ty),
        mask=columns < VALUE_DIM,
    )
