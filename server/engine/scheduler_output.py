"""What one engine step computes: the scheduler's answer, the model runner's input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .sequence import Sequence


@dataclass(slots=True)
class ScheduledSequence:
    """One sequence's share of a step: tokens ``[start, start + num_new_tokens)`` of its own."""

    sequence: Sequence
    start: int
    """Index of the first token to compute, among the sequence's tokens after a pinned cache."""
    num_new_tokens: int
    num_logits: int
    """How many rows of the step's logits belong to the sequence (its last so many tokens): 1 if
    its next token is drawn, more where prompt log-probabilities are wanted, else 0."""
    samples: bool
    """Whether the last row of logits draws the next token."""


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """A packed batch of S sequences and T new tokens, tokens of a sequence side by side.

    Slots are physical places in the cache, positions go into the rotary embedding.
    """

    sequences: list[ScheduledSequence]
    """[S], in the order of the arrays below."""
    token_ids: NDArray[np.int64]
    """[T] tokens to feed."""
    positions: NDArray[np.int64]
    """[T] logical positions."""
    slot_mapping: NDArray[np.int64]
    """[T] ``block * block_size + offset``: where each token's key and value are written."""
    query_start_loc: NDArray[np.int32]
    """[S + 1] first token of each sequence in the batch; the last entry is T."""
    seq_lens: NDArray[np.int32]
    """[S] slots of each sequence, those of this step included."""
    block_table: NDArray[np.int32]
    """[S, blocks of the longest sequence] block ids; unused entries are 0."""
    max_query_len: int
    max_seq_len: int
    logits_indices: NDArray[np.int64]
    """[R] rows of the T tokens whose logits are needed, ascending; R may be 0."""
    block_copies: list[tuple[int, int]]
    """(source, destination) blocks to copy in every layer before the step."""

    @property
    def num_tokens(self) -> int:
        """T, the tokens that the step computes."""
        return len(self.token_ids)
