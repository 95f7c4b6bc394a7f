"""Packs the chosen sequences into the flat arrays that the model runs on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .request import Request
from .scheduler_output import ScheduledSequence, SchedulerOutput
from .sequence import Sequence


def pack_batch(
    shares: list[ScheduledSequence],
    block_table: NDArray[np.int32],
    block_size: int,
    copies: list[tuple[int, int]],
) -> SchedulerOutput:
    """Lays the new tokens of all sequences side by side.

    Args:
        shares: [S] what each sequence computes.
        block_table: [rows, blocks] int32; a sequence's blocks stand in its ``row``, then zeros.
        block_size: slots in a block.
        copies: (source, destination) blocks.
    """
    if all(share.samples and share.num_new_tokens == 1 for share in shares):
        return _pack_decodes(shares, block_table, block_size, copies)
    rows, starts, counts, num_logits, slot_offsets, position_offsets = _columns(shares)
    seq_lens = slot_offsets + starts + counts
    max_seq_len = int(seq_lens.max())
    table = block_table[rows, : -(-max_seq_len // block_size)]
    query_start_loc = np.zeros(len(shares) + 1, dtype=np.int64)
    np.cumsum(counts, out=query_start_loc[1:])
    owner = np.repeat(np.arange(len(shares)), counts)
    index = (starts - query_start_loc[:-1])[owner] + np.arange(query_start_loc[-1])
    slots = slot_offsets[owner] + index
    return SchedulerOutput(
        sequences=shares,
        token_ids=_token_ids(shares),
        positions=position_offsets[owner] + index,
        slot_mapping=table[owner, slots // block_size].astype(np.int64) * block_size
        + slots % block_size,
        query_start_loc=query_start_loc.astype(np.int32),
        seq_lens=seq_lens.astype(np.int32),
        block_table=table,
        max_query_len=int(counts.max()),
        max_seq_len=max_seq_len,
        logits_indices=_last_rows(query_start_loc[1:], num_logits),
        block_copies=copies,
    )


def single_token_step(block_id: int, block_size: int) -> SchedulerOutput:
    """A step that belongs to no request: token 0 at position 0, written into a block."""
    sequence = Sequence(Request("nobody", [0]), 1)
    sequence.row, sequence.block_ids = 0, [block_id]
    share = ScheduledSequence(sequence, 0, 1, num_logits=1, samples=True)
    return pack_batch([share], np.array([[block_id]], dtype=np.int32), block_size, [])


def _pack_decodes(
    shares: list[ScheduledSequence],
    block_table: NDArray[np.int32],
    block_size: int,
    copies: list[tuple[int, int]],
) -> SchedulerOutput:
    """One token a sequence, each drawing the next: few arrays, since most steps are of this kind
    and the model leaves numpy's code cold in the cache."""
    rows, token_ids, positions, slots, seq_lens = [], [], [], [], []
    for share in shares:
        sequence, start = share.sequence, share.start
        slot = sequence.slot_offset + start
        block_id = sequence.block_ids[slot // block_size]
        rows.append(sequence.row)
        token_ids.append(sequence.token_ids[start])
        positions.append(sequence.position_offset + start)
        slots.append(block_id * block_size + slot % block_size)
        seq_lens.append(slot + 1)
    max_seq_len = max(seq_lens, default=0)
    token_index = np.arange(len(shares) + 1)
    return SchedulerOutput(
        sequences=shares,
        token_ids=np.array(token_ids, dtype=np.int64),
        positions=np.array(positions, dtype=np.int64),
        slot_mapping=np.array(slots, dtype=np.int64),
        query_start_loc=token_index.astype(np.int32),
        seq_lens=np.array(seq_lens, dtype=np.int32),
        block_table=block_table[rows, : -(-max_seq_len // block_size)],
        max_query_len=1 if shares else 0,
        max_seq_len=max_seq_len,
        logits_indices=token_index[:-1],
        block_copies=copies,
    )


def _token_ids(shares: list[ScheduledSequence]) -> NDArray[np.int64]:
    token_ids: list[int] = []
    for share in shares:
        token_ids += share.sequence.token_ids[share.start : share.start + share.num_new_tokens]
    return np.array(token_ids, dtype=np.int64)


def _columns(shares: list[ScheduledSequence]) -> NDArray[np.int64]:
    """[6, S]: table row, first token, tokens, rows of logits, slot and position offset."""
    columns = [
        (
            share.sequence.row,
            share.start,
            share.num_new_tokens,
            share.num_logits,
            share.sequence.slot_offset,
            share.sequence.position_offset,
        )
        for share in shares
    ]
    return np.array(columns, dtype=np.int64).reshape(-1, 6).T


def _last_rows(ends: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The last ``counts[s]`` indices before each ``ends[s]``, ascending."""
    if counts.max() <= 1:
        return ends[counts == 1] - 1
    before = np.repeat(ends - np.cumsum(counts), counts)
    return before + np.arange(len(before))
