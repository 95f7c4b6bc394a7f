"""Packs the chosen sequences into the flat arrays that the model runs on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .scheduler_output import ScheduledSequence, SchedulerOutput


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
    rows, starts, counts, num_logits, slot_offsets, position_offsets = _columns(shares)
    seq_lens = slot_offsets + starts + counts
    max_seq_len = int(seq_lens.max(initial=0))
    table = block_table[rows, : -(-max_seq_len // block_size)]
    query_start_loc = np.zeros(len(shares) + 1, dtype=np.int64)
    np.cumsum(counts, out=query_start_loc[1:])
    num_tokens = int(query_start_loc[-1])
    owner = np.arange(len(shares))
    if num_tokens == len(shares):  # decodes only: the token's index is where it starts
        index = starts
    else:
        owner = np.repeat(owner, counts)
        index = (starts - query_start_loc[:-1])[owner] + np.arange(num_tokens)
    slots = slot_offsets[owner] + index
    return SchedulerOutput(
        sequences=shares,
        token_ids=_token_ids(shares, num_tokens),
        positions=position_offsets[owner] + index,
        slot_mapping=table[owner, slots // block_size].astype(np.int64) * block_size
        + slots % block_size,
        query_start_loc=query_start_loc.astype(np.int32),
        seq_lens=seq_lens.astype(np.int32),
        block_table=table,
        max_query_len=int(counts.max(initial=0)),
        max_seq_len=max_seq_len,
        logits_indices=_last_rows(query_start_loc[1:], num_logits),
        block_copies=copies,
    )


def _token_ids(shares: list[ScheduledSequence], num_tokens: int) -> NDArray[np.int64]:
    if num_tokens == len(shares):
        return np.array([s.sequence.token_ids[s.start] for s in shares], dtype=np.int64)
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
    if not len(counts) or counts.max() <= 1:
        return ends[counts == 1] - 1
    before = np.repeat(ends - np.cumsum(counts), counts)
    return before + np.arange(len(before))
