"""The Triton kernel that attends to pages, for decoding and for prompts alike."""

import triton
import triton.language as tl

from .triton_constants import LOG2_E, LOWEST
from .triton_ranges import plain_tiles, sequence_of, split_tiles, visible_slots
from .triton_tiles import attend_tiles


# What changes from step to step must not make Triton compile again.
@triton.jit(
    do_not_specialize=["window", "num_seqs", "num_splits", "table_stride"],
    do_not_specialize_on_alignment=["query_start_loc_ptr", "seq_lens_ptr", "block_table_ptr"],
)
def attention_kernel(
    out_ptr,
    part_ptr,
    part_lse_ptr,
    query_ptr,
    key_cache_ptr,
    value_cache_ptr,
    sinks_ptr,
    query_start_loc_ptr,
    seq_lens_ptr,
    block_table_ptr,
    scale,
    softcap,
    window,
    num_seqs,
    num_splits,
    query_token_stride,
    query_head_stride,
    table_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    KEY_COLUMNS: tl.constexpr,
    VALUE_COLUMNS: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    MIN_TILES: tl.constexpr,
    ONE_QUERY: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Some queries of a sequence and heads of one KV group, over some of the slots they see.

    Rows of a tile are queries times heads, columns are slots. With ``ONE_QUERY`` the programs are
    (heads, split, sequence) and take the sequences of one query; otherwise they are (block of
    queries, heads, split) and take the others. A block whose slots are not split is finished here;
    of a split one each program leaves its output and the logarithm of its softmax sum. Scores and
    logarithms are to base 2.
    """
    HEAD_BLOCKS: tl.constexpr = (GROUP + BLOCK_H - 1) // BLOCK_H
    HEADS: tl.constexpr = KV_HEADS * GROUP
    if ONE_QUERY:
        head_block = tl.program_id(0)
        split = tl.program_id(1)
        seq = tl.program_id(2)
        first_row = tl.load(query_start_loc_ptr + seq)
        first_query = 0
    else:
        # Late blocks of a prompt see most slots: they start first.
        block = tl.num_programs(0) - 1 - tl.program_id(0)
        head_block = tl.program_id(1)
        split = tl.program_id(2)
        seq = sequence_of(query_start_loc_ptr, num_seqs, block, BLOCK_Q)
        first_row = tl.load(query_start_loc_ptr + seq)
        first_query = (block - first_row // BLOCK_Q - seq) * BLOCK_Q
    num_queries = tl.load(query_start_loc_ptr + seq + 1) - first_row
    if ONE_QUERY:
        if num_queries != 1:
            return
    else:
        if (num_queries < 2) | (first_query >= num_queries):
            return
    seq_len = tl.load(seq_lens_ptr + seq)
    begin, end, first_slot = visible_slots(
        seq_len, num_queries, first_query, window, BLOCK_Q, HAS_WINDOW
    )
    tiles_each, used_splits = split_tiles(begin, end, num_splits, BLOCK_N, MIN_TILES)
    if (split > 0) & (split >= used_splits):
        return
    first_tile = split * tiles_each
    last_tile = tl.minimum(first_tile + tiles_each, tl.cdiv(end - begin, BLOCK_N))

    rows = tl.arange(0, BLOCK_M)
    queries = rows // BLOCK_H
    kv_head = head_block // HEAD_BLOCKS
    group_heads = head_block % HEAD_BLOCKS * BLOCK_H + rows % BLOCK_H
    heads = kv_head * GROUP + group_heads
    present = (queries < BLOCK_Q) & (group_heads < GROUP)
    if not ONE_QUERY:
        present = present & (first_query + queries < num_queries)
    tokens = (first_row + first_query + queries).to(tl.int64)
    columns = tl.arange(0, KEY_COLUMNS)
    query_offsets = tokens * query_token_stride + heads * query_head_stride
    query = tl.load(
        query_ptr + query_offsets[:, None] + columns[None, :],
        mask=present[:, None] & (columns < KEY_DIM)[None, :],
        other=0.0,
    )
    if UPCAST:
        query = query.to(tl.float32)

    highest = tl.full([BLOCK_M], LOWEST, tl.float32)
    if HAS_SINKS:
        sinks = tl.load(sinks_ptr + heads, mask=present, other=0.0).to(tl.float32) * LOG2_E
        if HAS_SOFTCAP:
            sinks += softcap * LOG2_E
        highest = tl.where(split == 0, tl.maximum(sinks, LOWEST), highest)
    acc = tl.zeros([BLOCK_M, VALUE_COLUMNS], tl.float32)
    # With one query, weights are added up over tiles first and over a tile's slots at the end,
    # which spares an exchange between warps in each tile.
    total = tl.zeros([BLOCK_M, BLOCK_N] if ONE_QUERY else [BLOCK_M], tl.float32)

    plain, edge = plain_tiles(
        begin, end, first_slot, window, first_tile, last_tile, BLOCK_N, ONE_QUERY, HAS_WINDOW
    )
    # Tiles across the window's edge, tiles that need no mask, tiles across the diagonal.
    for phase in tl.static_range(3):
        if (phase == 2) or (not ONE_QUERY and (phase == 1 or HAS_WINDOW)):
            acc, highest, total = attend_tiles(
                acc,
                highest,
                total,
                query,
                first_slot + queries,
                key_cache_ptr + kv_head * KEY_DIM,
                value_cache_ptr + kv_head * VALUE_DIM,
                block_table_ptr + seq.to(tl.int64) * table_stride,
                scale,
                softcap,
                window,
                begin,
                end,
                first_tile if phase == 0 else (plain if phase == 1 else edge),
                plain if phase == 0 else (edge if phase == 1 else last_tile),
                KV_HEADS,
                KEY_DIM,
                VALUE_DIM,
                KEY_COLUMNS,
                VALUE_COLUMNS,
                PAGE_SIZE,
                BLOCK_N,
                phase != 1,
                ONE_QUERY,
                HAS_WINDOW,
                HAS_SOFTCAP,
                UPCAST,
            )

    if ONE_QUERY:
        total = tl.sum(total, 1)
    if HAS_SINKS:
        total += tl.where(split == 0, tl.exp2(tl.minimum(sinks - highest, 0.0)), 0.0)
    total = tl.where(total > 0, total, 1.0)
    acc = acc * (1.0 / total)[:, None]
    value_columns = tl.arange(0, VALUE_COLUMNS)
    stored = present[:, None] & (value_columns < VALUE_DIM)[None, :]
    if used_splits <= 1:
        out_rows = (tokens * HEADS + heads) * VALUE_DIM
        tl.store(
            out_ptr + out_rows[:, None] + value_columns[None, :],
            acc.to(out_ptr.dtype.element_ty),
            mask=stored,
        )
    else:
        units = tl.zeros_like(tokens) + seq if ONE_QUERY else tokens
        parts = (units * HEADS + heads) * num_splits + split
        tl.store(part_ptr + parts[:, None] * VALUE_DIM + value_columns[None, :], acc, mask=stored)
        tl.store(part_lse_ptr + parts, highest + tl.log2(total), mask=present)
