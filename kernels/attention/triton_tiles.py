"""The loop of the attention kernel: tiles of keys and values, brought in from pages."""

import triton
import triton.language as tl

from .triton_constants import LOG2_E


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
    """Take the tiles ``first_tile..last_tile`` into a running softmax (arXiv 1805.02867).

    Returns:
        acc: ``[BLOCK_M, VALUE_COLUMNS]``, values weighted by ``2 ** (score - highest)``.
        highest: ``[BLOCK_M]``, the highest score of each row so far.
        total: ``[BLOCK_M]``, the sum of weights; with ``ONE_QUERY`` ``[BLOCK_M, BLOCK_N]``, its
            terms added up over tiles.
    """
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
        factor = scale * LOG2_E
        if HAS_SOFTCAP:
            # c * tanh(x / c) + c = 2c / (1 + exp(-2x / c)); softmax does not see the added c.
            decayed = tl.exp2(scores * (-2.0 * LOG2_E * scale / softcap))
            scores = 2.0 / (1.0 + decayed)
            factor = softcap * LOG2_E
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
