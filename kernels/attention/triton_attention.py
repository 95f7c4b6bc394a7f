"""The Triton kernel that attends to pages, for decoding and for prompts alike."""

import triton
import triton.language as tl

from .triton_ranges import sequence_of, split_tiles, visible_slots

# Finite, so that rows which have seen nothing yet subtract without a NaN.
_LOWEST = tl.constexpr(-1.0e30)
_LOG2_E = tl.constexpr(1.4426950408889634)


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

    highest = tl.full([BLOCK_M], _LOWEST, tl.float32)
    if HAS_SINKS:
        sinks = tl.load(sinks_ptr + heads, mask=present, other=0.0).to(tl.float32) * _LOG2_E
        if HAS_SOFTCAP:
            sinks += softcap * _LOG2_E
        highest = tl.where(split == 0, tl.maximum(sinks, _LOWEST), highest)
    acc = tl.zeros([BLOCK_M, VALUE_COLUMNS], tl.float32)
    # With one query, weights are added up over tiles first and over a tile's slots at the end,
    # which spares an exchange between warps in each tile.
    total = tl.zeros([BLOCK_M, BLOCK_N] if ONE_QUERY else [BLOCK_M], tl.float32)

    # Tiles up to `lead` lie across the window's edge, those from `full` on across the diagonal.
    lead = first_tile
    full = first_tile
    if not ONE_QUERY:
        full = (tl.maximum(first_slot + 1, begin) - begin) // BLOCK_N
        if HAS_WINDOW:
            lead = tl.cdiv(tl.maximum(end - window, begin) - begin, BLOCK_N)
            lead = tl.minimum(tl.maximum(lead, first_tile), last_tile)
        full = tl.minimum(tl.maximum(full, lead), last_tile)
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
                first_tile if phase == 0 else (lead if phase == 1 else full),
                lead if phase == 0 else (full if phase == 1 else last_tile),
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


@triton.jit
def attend_tiles(
    acc,
    highest,
    total,
    query,
    query_slots,
    key_ptr,
    value_ptr,
    table_ptr,
    scale,
    softcap,
    window,
    begin,
    end,
    first_tile,
    last_tile,
    KV_HEADS: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    KEY_COLUMNS: tl.constexpr,
    VALUE_COLUMNS: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
    ONE_QUERY: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    UPCAST: tl.constexpr,
):
    key_columns = tl.arange(0, KEY_COLUMNS)
    value_columns = tl.arange(0, VALUE_COLUMNS)
    slots = begin + first_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    pages = tl.load(table_ptr + slots.to(tl.uint32) // PAGE_SIZE, mask=slots < end, other=0)
    for tile in range(first_tile, last_tile):
        slots = begin + tile * BLOCK_N + tl.arange(0, BLOCK_N)
        inside = slots < end
        places = pages * PAGE_SIZE + (slots.to(tl.uint32) % PAGE_SIZE).to(tl.int32)
        places = places.to(tl.int64)
        # Pages are looked up a tile ahead: a load whose address hangs on another load of the same
        # pass would be given half of the pipeline's stages.
        next_slots = slots + BLOCK_N
        pages = tl.load(
            table_ptr + next_slots.to(tl.uint32) // PAGE_SIZE, mask=next_slots < end, other=0
        )
        key_ptrs = key_ptr + places[:, None] * (KV_HEADS * KEY_DIM) + key_columns[None, :]
        value_ptrs = value_ptr + places[:, None] * (KV_HEADS * VALUE_DIM) + value_columns[None, :]
        if KEY_COLUMNS == KEY_DIM:
            key = tl.load(key_ptrs)
        else:
            key = tl.load(key_ptrs, mask=(key_columns < KEY_DIM)[None, :], other=0.0)
        if MASKED:
            # What lies in unused slots may be no number: it must not meet a weight of zero.
            mask = inside[:, None] & (value_columns < VALUE_DIM)[None, :]
            value = tl.load(value_ptrs, mask=mask, other=0.0)
        elif VALUE_COLUMNS == VALUE_DIM:
            value = tl.load(value_ptrs)
        else:
            value = tl.load(value_ptrs, mask=(value_columns < VALUE_DIM)[None, :], other=0.0)
        if UPCAST:
            key = key.to(tl.float32)
            value = value.to(tl.float32)

        scores = tl.dot(query, tl.trans(key), input_precision="ieee")
        factor = scale * _LOG2_E
        if HAS_SOFTCAP:
            # c * tanh(x / c) + c = 2c / (1 + exp(-2x / c)); softmax does not see the added c.
            decayed = tl.exp2(scores * (-2.0 * _LOG2_E * scale / softcap))
            scores = 2.0 / (1.0 + decayed)
            factor = softcap * _LOG2_E
        if MASKED:
            if ONE_QUERY:
                scores = tl.where(inside[None, :], scores, float("-inf"))
            else:
                visible = slots[None, :] <= query_slots[:, None]
                if HAS_WINDOW:
                    visible = visible & (slots[None, :] > query_slots[:, None] - window)
                scores = tl.where(visible, scores, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(scores, 1) * factor)
        weights = tl.exp2(scores * factor - new_highest[:, None])
        decay = tl.exp2(highest - new_highest)
        if ONE_QUERY:
            total = total * decay[:, None] + weights
        else:
            total = total * decay + tl.sum(weights, 1)
        acc = tl.dot(weights.to(value.dtype), value, acc * decay[:, None], input_precision="ieee")
        highest = new_highest
    return acc, highest, total
