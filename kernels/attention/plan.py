"""How the plain-torch path walks a packed batch: worked out once a step, used by every layer.

A layer then costs a handful of torch calls: decode rows run together, padded to the longest of
their group; every sequence with several new tokens runs by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Slots of padding that cost as much as the calls of one more decode group (measured, 2 cores).
_MAX_GROUP_WASTE = 1024
# Slots a decode group gathers at most, so that what it gathers is still in cache when it is read.
_MAX_GROUP_SLOTS = 8192
# Queries of one prefill tile: bounds the mask (and scores, where they are explicit) of a long one.
_QUERY_TILE = 512

Rows = slice | Tensor


@dataclass(eq=False)
class Segment:
    """Queries that attend together: ``n`` sequences of ``q`` queries over ``length`` cache slots.

    Attributes:
        rows: the ``n * q`` rows of the packed batch, in order; ``n == 1`` or ``q == 1``.
        num_seqs: ``n``.
        num_queries: ``q``.
        length: slots each of the sequences reads, padding included.
        fresh: keys and values are the rows themselves: the cache need not be read.
        span: where ``n == 1`` and the pages follow one another, their first slot in the cache.
        blocks: int64 ``[n * ceil(length / block_size)]``, pages to gather.
        unused: int64, slots of the gathered pages that belong to no sequence. What they hold may
            be no number, which adding a mask to scores would not take out.
        dense: first row and slot in the dense memory that holds the sequences. (One of the last
            four is given.)
        visible: bool ``[n, q, length]``, None where every slot is visible (or, when ``fresh``,
            where plain causality is all there is).
        kept: int64, which of the ``n`` results count, where not all do; they belong to the rows
            ``kept_rows`` of the packed batch.
    """

    rows: Rows
    num_seqs: int
    num_queries: int
    length: int
    fresh: bool = False
    span: int | None = None
    blocks: Tensor | None = None
    unused: Tensor | None = None
    dense: tuple[int, int] | None = None
    visible: Tensor | None = None
    kept: Tensor | None = None
    kept_rows: Rows | None = None
    _biases: dict[torch.dtype, Tensor] = field(default_factory=dict, repr=False)

    def bias(self, dtype: torch.dtype) -> Tensor | None:
        """``visible`` as an additive mask ``[n, 1, q, length]`` of zeros and minus infinities."""
        if self.visible is None:
            return None
        bias = self._biases.get(dtype)
        if bias is None:
            bias = torch.zeros(self.visible.shape, dtype=dtype, device=self.visible.device)
            bias = bias.masked_fill_(~self.visible, float("-inf")).unsqueeze(1)
            self._biases[dtype] = bias
        return bias


@dataclass(eq=False)
class AttentionPlan:
    """The segments that together cover each row of the packed batch once."""

    segments: list[Segment]


class DecodePlan(Protocol):
    """Another way to read the sequences of one new token than by gathering their pages."""

    def segments(self, window: int | None) -> list[Segment]:
        """Segments that cover those sequences."""


class Planner:
    """Plans one step for layers of one window size.

    Args:
        query_start_loc, seq_lens, block_table: as in :class:`AttentionMetadata`, on the host.
        block_size: slots a page.
        window: slots a token sees, or None.
        device: where the plan's tensors go.
        decode: plans the sequences of one new token, in place of this class.
    """

    def __init__(
        self,
        query_start_loc: NDArray[np.int32],
        seq_lens: NDArray[np.int32],
        block_table: NDArray[np.int32],
        block_size: int,
        window: int | None,
        device: torch.device,
        decode: DecodePlan | None = None,
    ) -> None:
        self.starts = query_start_loc
        self.seq_lens = seq_lens
        self.block_table = block_table
        self.block_size = block_size
        self.window = window
        self.device = device
        self.decode = decode

    def plan(self) -> AttentionPlan:
        counts = np.diff(self.starts)
        if self.decode is not None:
            segments = self.decode.segments(self.window)
        else:
            segments = [self._decode(seqs) for seqs in self._groups(np.flatnonzero(counts == 1))]
        for seq in np.flatnonzero(counts > 1).tolist():
            segments.extend(self._prefill(seq, int(counts[seq])))
        return AttentionPlan(segments)

    def _first_page(self, query_slots: NDArray[np.int32]) -> NDArray[np.int32]:
        """Page (of its sequence) with the first slot that a query in ``query_slots`` can see."""
        if self.window is None:
            return np.zeros_like(query_slots)
        return np.maximum(query_slots - self.window + 1, 0) // self.block_size

    def _groups(self, decode: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """Split decode sequences so that padding to each group's longest stays cheap."""
        if len(decode) == 0:
            return []
        seq_lens = self.seq_lens[decode]
        lengths = seq_lens - self._first_page(seq_lens - 1) * self.block_size
        padded = int(lengths.max()) * len(decode)
        if padded - int(lengths.sum()) <= _MAX_GROUP_WASTE and padded <= _MAX_GROUP_SLOTS:
            return [decode]
        order = np.argsort(-lengths, kind="stable")
        cuts = _cuts(lengths[order].tolist())
        return [decode[np.sort(part)] for part in np.split(order, cuts)]

    def _decode(self, seqs: NDArray[np.intp]) -> Segment:
        seq_lens = self.seq_lens[seqs]
        first_pages = self._first_page(seq_lens - 1)
        lengths = seq_lens - first_pages * self.block_size
        length = int(lengths.max())
        span, blocks = self._locate(seqs, first_pages, length)
        visible = unused = None
        if int(lengths.min()) < length:
            width = -(-length // self.block_size) * self.block_size
            flat = np.flatnonzero(np.arange(width) >= lengths[:, None])
            unused = torch.from_numpy(flat).to(self.device)
        if self.window is not None or int(lengths.min()) < length:
            slots = np.arange(length)
            mask = slots < lengths[:, None]
            if self.window is not None:
                mask &= slots >= lengths[:, None] - self.window
            visible = torch.from_numpy(mask[:, None, :]).to(self.device)
        rows = self._rows(self.starts[seqs])
        return Segment(
            rows, len(seqs), 1, length, span=span, blocks=blocks, unused=unused, visible=visible
        )

    def _prefill(self, seq: int, count: int) -> list[Segment]:
        """One sequence's new tokens, in tiles of queries; a whole short prompt needs no cache."""
        row, slot = int(self.starts[seq]), int(self.seq_lens[seq]) - count
        if slot == 0 and count <= _QUERY_TILE and (self.window is None or self.window >= count):
            return [Segment(slice(row, row + count), 1, count, count, fresh=True)]
        return [
            self._tile(seq, row + tile, slot + tile, min(_QUERY_TILE, count - tile))
            for tile in range(0, count, _QUERY_TILE)
        ]

    def _tile(self, seq: int, row: int, slot: int, count: int) -> Segment:
        """``count`` queries from slot ``slot`` on, over the slots that the last of them sees."""
        first_pages = self._first_page(np.array([slot], dtype=np.int32))
        first = int(first_pages[0]) * self.block_size
        length = slot + count - first
        span, blocks = self._locate(np.array([seq]), first_pages, length)
        slots = torch.arange(first, slot + count, device=self.device)
        queries = torch.arange(slot, slot + count, device=self.device)[:, None]
        visible = slots <= queries
        if self.window is not None:
            visible &= slots > queries - self.window
        rows = slice(row, row + count)
        return Segment(rows, 1, count, length, span=span, blocks=blocks, visible=visible[None])

    def _locate(
        self, seqs: NDArray[np.intp], first_pages: NDArray[np.int32], length: int
    ) -> tuple[int | None, Tensor | None]:
        """Where ``length`` slots of each sequence lie: one run in the cache, or a list of pages.

        Beyond a sequence's own pages the list names whatever its row of the table is padded with
        (its last entry where the row ends): readable memory, masked by the caller.
        """
        columns = first_pages[:, None] + np.arange(-(-length // self.block_size))
        columns = np.minimum(columns, self.block_table.shape[1] - 1)
        pages = self.block_table[seqs[:, None], columns].reshape(-1)
        if len(seqs) == 1 and bool((np.diff(pages) == 1).all()):
            return int(pages[0]) * self.block_size, None
        return None, torch.from_numpy(pages.astype(np.int64)).to(self.device)

    def _rows(self, rows: NDArray[np.int32]) -> Rows:
        first, last = int(rows[0]), int(rows[-1])
        if last - first + 1 == len(rows):
            return slice(first, last + 1)
        return torch.from_numpy(rows.astype(np.int64)).to(self.device)


def _cuts(lengths: list[int]) -> list[int]:
    """Where to cut a descending list of lengths into groups of little padding and bounded size."""
    cuts: list[int] = []
    start = waste = 0
    for index, length in enumerate(lengths):
        longest = lengths[start]
        waste += longest - length
        if waste > _MAX_GROUP_WASTE or (index + 1 - start) * longest > _MAX_GROUP_SLOTS:
            if index > start:
                cuts.append(index)
            start, waste = index, 0
    return cuts
