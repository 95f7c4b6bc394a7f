"""The engine's description of a decode step over sequences that are cached already."""

from __future__ import annotations

import numpy as np

from ...server.engine.request import Request, SamplingParams
from ...server.engine.scheduler_output import ScheduledSequence, SchedulerOutput
from ...server.engine.sequence import Sequence


def blocks_needed(batch: int, length: int, block_size: int) -> int:
    """Blocks of ``batch`` sequences of ``length`` slots."""
    return batch * -(-length // block_size)


def decode_step(batch: int, length: int, block_size: int, vocab_size: int) -> SchedulerOutput:
    """One new token for each of ``batch`` sequences, the last of its ``length`` slots.

    The sequences' blocks lie one after another from block 0 on.
    """
    pages = blocks_needed(1, length, block_size)
    table = np.arange(batch * pages, dtype=np.int32).reshape(batch, pages)
    slot = length - 1
    tokens = np.random.default_rng(0).integers(0, vocab_size, batch)
    return SchedulerOutput(
        sequences=[_share(row, length) for row in range(batch)],
        token_ids=tokens.astype(np.int64),
        positions=np.full(batch, slot, dtype=np.int64),
        slot_mapping=table[:, slot // block_size].astype(np.int64) * block_size + slot % block_size,
        query_start_loc=np.arange(batch + 1, dtype=np.int32),
        seq_lens=np.full(batch, length, dtype=np.int32),
        block_table=table,
        max_query_len=1,
        max_seq_len=length,
        logits_indices=np.arange(batch),
        block_copies=[],
    )


def _share(row: int, length: int) -> ScheduledSequence:
    request = Request(f"bench-{row}", [0] * length, SamplingParams(max_tokens=1))
    sequence = Sequence(request, 1)
    sequence.row = row
    return ScheduledSequence(
        sequence, start=length - 1, num_new_tokens=1, num_logits=1, samples=True
    )
