"""What a step's packed batch looks like to the attention operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .dense_rows import DenseStep
from .plan import AttentionPlan, Planner

HostArrays = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]


@dataclass(eq=False)
class AttentionMetadata:
    """Where the tokens of one step live, for a packed batch of ``S`` sequences and ``T`` tokens.

    A *slot* is a physical place in the paged cache. Token ``i`` of sequence ``s`` in this step is
    the sequence's slot number ``seq_lens[s] - query_len[s] + i``, and causality and windows count
    slots, never the logical positions fed to the rotary embedding.

    Attributes:
        query_start_loc: int32 ``[S + 1]``, first row of each sequence in the packed batch.
        seq_lens: int32 ``[S]``, slots of each sequence, those of this step included.
        block_table: int32 ``[S, max_blocks]``, pages of each sequence in order, padded by zeros.
        slot_mapping: int64 ``[T]``, ``page * block_size + offset`` each new token is written to.
        max_query_len: largest number of new tokens of a sequence.
        max_seq_len: largest entry of ``seq_lens``.
        dense: dense memory of the sequences that decode in this step, where there is one (CPU).
    """

    query_start_loc: Tensor
    seq_lens: Tensor
    block_table: Tensor
    slot_mapping: Tensor
    max_query_len: int
    max_seq_len: int
    dense: DenseStep | None = None
    _host: HostArrays | None = field(default=None, repr=False)
    _plans: dict[tuple[int, int | None], AttentionPlan] = field(default_factory=dict, repr=False)

    @classmethod
    def from_numpy(
        cls,
        query_start_loc: NDArray[np.int32],
        seq_lens: NDArray[np.int32],
        block_table: NDArray[np.int32],
        slot_mapping: NDArray[np.int64],
        *,
        max_query_len: int,
        max_seq_len: int,
        device: torch.device | str = "cpu",
        dense: DenseStep | None = None,
    ) -> AttentionMetadata:
        """Metadata of arrays that lie on the host; planning then never waits for a device.

        On the CPU the tensors share the arrays' memory, which must stay as it is for the step.
        """
        return cls(
            torch.from_numpy(query_start_loc).to(device),
            torch.from_numpy(seq_lens).to(device),
            torch.from_numpy(block_table).to(device),
            torch.from_numpy(slot_mapping).to(device),
            max_query_len,
            max_seq_len,
            dense,
            _host=(query_start_loc, seq_lens, block_table),
        )

    @classmethod
    def build(
        cls,
        query_lens: Sequence[int],
        seq_lens: Sequence[int],
        block_tables: Sequence[Sequence[int]],
        block_size: int,
        device: torch.device | str = "cpu",
    ) -> AttentionMetadata:
        """Derive every array from plain lists, one entry a sequence.

        Args:
            query_lens: new tokens of each sequence, at least one.
            seq_lens: slots of each sequence after this step.
            block_tables: pages of each sequence; at least ``ceil(seq_len / block_size)``.
            block_size: slots a page.
            device: where the tensors go.

        Raises:
            ValueError: a sequence has no new token, or too few pages for its slots.
        """
        pages = []
        slots: list[int] = []
        for query_len, seq_len, table in zip(query_lens, seq_lens, block_tables, strict=True):
            table = _used_pages(query_len, seq_len, table, block_size)
            new = range(seq_len - query_len, seq_len)
            slots.extend(table[slot // block_size] * block_size + slot % block_size for slot in new)
            pages.append(table)
        width = max(map(len, pages), default=0)
        padded = [table + [0] * (width - len(table)) for table in pages]
        return cls.from_numpy(
            np.cumsum([0, *query_lens], dtype=np.int32),
            np.array(seq_lens, dtype=np.int32),
            np.array(padded, dtype=np.int32).reshape(len(pages), width),
            np.array(slots, dtype=np.int64),
            max_query_len=max(query_lens, default=0),
            max_seq_len=max(seq_lens, default=0),
            device=device,
        )

    def plan(self, block_size: int, sliding_window: int | None) -> AttentionPlan:
        """The gather order of this step for one kind of layer, made once and shared by layers."""
        key = (block_size, sliding_window)
        plan = self._plans.get(key)
        if plan is None:
            if self._host is None:
                self._host = (
                    self.query_start_loc.cpu().numpy(),
                    self.seq_lens.cpu().numpy(),
                    self.block_table.cpu().numpy(),
                )
            device = self.slot_mapping.device
            planner = Planner(*self._host, block_size, sliding_window, device, self.dense)
            plan = self._plans[key] = planner.plan()
        return plan


def _used_pages(
    query_len: int, seq_len: int, block_table: Sequence[int], block_size: int
) -> list[int]:
    num_pages = -(-seq_len // block_size)
    if not 1 <= query_len <= seq_len:
        raise ValueError(f"query length must be in 1..{seq_len} (sequence length), got {query_len}")
    if len(block_table) < num_pages:
        raise ValueError(
            f"{seq_len} slots need {num_pages} blocks of {block_size}, the table has "
            f"{len(block_table)}"
        )
    return list(block_table[:num_pages])
