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
        block_table: [rows, blocks] int32; a sequence's blocks stand in its ``row``.
        block_size: slots in a block.
        copies: (source, destination) blocks.
    """
    rows, starts, counts, num_logits, slot_offsets, position_offsets = _columns(shares)
    token_ids: list[int] = []
    for share in shares:
        tokens = share.sequence.token_ids
        if share.num_new_tokens == 1:
            token_ids.append(tokens[share.start])
        else:
            token_ids += tokens[share.start : share.start + share.num_new_tokens]
    query_start_loc = np.zeros(len(shares) + 1, dtype=np.int64)
    np.cumsum(counts, out=query_start_loc[1:])
    seq_lens = slot_offsets + starts + counts
    max_seq_len = int(seq_lens.max(initial=0))
    table = block_table[rows, : -(-max_seq_len // block_size)]
    # The blocks beyond a sequence's own are left over from the row's earlier sequences.
    table = np.where(np.arange(table.shape[1]) * block_size < seq_lens[:, None], table, 0)
    owner = np.repeat(np.arange(len(shares)), counts)
    index = starts[owner] + np.arange(len(token_ids)) - query_start_loc[owner]
    slots = slot_offsets[owner] + index
    return SchedulerOutput(
        sequences=shares,
        token_ids=np.array(token_ids, dtype=np.int64),
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
