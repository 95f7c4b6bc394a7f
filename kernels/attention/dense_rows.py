"""Running sequences' keys and values, kept dense beside their pages for decoding on the CPU.

Plain torch cannot attend to scattered pages without gathering them first, which costs more than
attending. So each running sequence also owns a row of dense memory that a decode step extends by
one token, and pages are gathered only when a sequence starts to decode.

A row is trusted only while it is certain to equal its pages: it remembers which pages it was made
of and in which step, and every write to a page, by whomever, is stamped with a step. Nothing has
to be told when sequences end, move, are preempted or share pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .plan import Rows, Segment

_Ints = NDArray[np.int64]
# Slots whose attention costs as much as the calls for one more segment (measured, 2 cores).
_SEGMENT_COST = 512
# Slots that dense memory grows by.
_GROWTH = 64


class DenseRows:
    """Dense keys ``[rows, Hkv, slots, D]`` and values of every layer, grown as needed.

    Args:
        caches: each layer's paged keys and values, on the CPU.
        max_bytes: what the rows may take; a step that needs more gathers its pages instead.
    """

    def __init__(self, caches: Sequence[tuple[Tensor, Tensor]], max_bytes: int) -> None:
        self._caches = list(caches)
        self._max_bytes = max_bytes
        key_cache, _ = self._caches[0]
        self._num_blocks, self._block_size = key_cache.shape[:2]
        self._step = 0
        self._written: _Ints = np.zeros(self._num_blocks, dtype=np.int64)
        self._allocate(0, 0)

    def touch(self, blocks: Iterable[int]) -> None:
        """Say that pages were written otherwise than by a step's own tokens."""
        self._written[list(blocks)] = self._step + 1

    def reset(self) -> None:
        """Trust no row any more: a step that had begun was not computed."""
        self._lengths[:] = -1

    def begin_step(
        self,
        rows: _Ints,
        query_start_loc: NDArray[np.int32],
        seq_lens: NDArray[np.int32],
        block_table: NDArray[np.int32],
        slot_mapping: _Ints,
    ) -> DenseStep | None:
        """Bring the rows of this step's decoding sequences up to date, and say where they are.

        Args:
            rows: int64 ``[S]``, a small number that each sequence keeps while it runs, to itself.
            query_start_loc, seq_lens, block_table, slot_mapping: as in ``AttentionMetadata``.

        Returns:
            What attends to the rows, or None where pages serve better. Once begun, a step must be
            computed in every layer, or :meth:`reset` be called.
        """
        decode = np.flatnonzero(np.diff(query_start_loc) == 1)
        step = None
        if self._is_worthwhile(decode, seq_lens, block_table):
            rows, seq_lens = rows[decode], seq_lens[decode]
            longest = int(seq_lens.max())
            table = block_table[decode, : -(-longest // self._block_size)]
            if self._reserve(int(rows.max()) + 1, longest):
                stale = self._stale(rows, seq_lens - 1, table)
                fills = [self._fill(i, rows, seq_lens, table) for i in stale.tolist()]
                step = DenseStep(self._layers, query_start_loc[decode], rows, seq_lens, fills)
        self._step += 1
        self._written[slot_mapping // self._block_size] = self._step
        if step is not None:
            self._lengths[rows] = seq_lens
            self._tables[rows, : table.shape[1]] = table
            self._stamps[rows] = self._step
        return step

    def _is_worthwhile(
        self, decode: NDArray[np.intp], seq_lens: NDArray[np.int32], table: NDArray[np.int32]
    ) -> bool:
        if len(decode) != 1:
            return len(decode) > 0
        seq = decode[0]
        pages = table[seq, : -(-int(seq_lens[seq]) // self._block_size)]
        return not bool((np.diff(pages) == 1).all())  # one run of pages is as good as a row

    def _stale(
        self, rows: _Ints, lengths: NDArray[np.int32], table: NDArray[np.int32]
    ) -> NDArray[np.intp]:
        """Which sequences' rows do not hold the slots before this step."""
        width = table.shape[1]
        used = np.arange(width) * self._block_size < lengths[:, None]
        same = ((self._tables[rows, :width] == table) | ~used).all(axis=1)
        written = np.where(used, self._written[table], 0).max(axis=1)
        held = (self._lengths[rows] == lengths) & same & (written <= self._stamps[rows])
        return np.flatnonzero(~held)

    def _fill(
        self, i: int, rows: _Ints, seq_lens: NDArray[np.int32], table: NDArray[np.int32]
    ) -> tuple[int, int, Tensor]:
        length = int(seq_lens[i])
        pages = table[i, : -(-length // self._block_size)].astype(np.int64)
        return int(rows[i]), length, torch.from_numpy(pages)

    def _reserve(self, rows: int, slots: int) -> bool:
        if rows <= self._num_rows and slots <= self._num_slots:
            return True
        most_rows, most_slots = max(rows, self._num_rows), max(slots, self._num_slots)
        # Growing refills every row, so with room to spare it is done for many steps at once; where
        # there is none, what longer or more sequences needed once is given up.
        for wanted in (
            (most_rows + most_rows // 2, most_slots + most_slots // 2),
            (most_rows, most_slots + most_slots // 4),
            (most_rows, most_slots),
            (rows, slots),
        ):
            roomy = (wanted[0], -(-wanted[1] // _GROWTH) * _GROWTH)
            if self._bytes(*roomy) <= self._max_bytes:
                self._allocate(*roomy)
                return True
        return False

    def _bytes(self, rows: int, slots: int) -> int:
        per_slot = sum(
            cache.shape[2] * cache.shape[3] * cache.element_size()
            for layer in self._caches
            for cache in layer
        )
        return rows * slots * per_slot

    def _allocate(self, rows: int, slots: int) -> None:
        self._num_rows, self._num_slots = rows, slots
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}  # the old are freed before the new
        for key_cache, value_cache in self._caches:
            self._layers[key_cache.data_ptr()] = (
                _dense(key_cache, rows, slots),
                _dense(value_cache, rows, slots),
            )
        width = -(-slots // self._block_size)
        self._lengths: _Ints = np.full(rows, -1, dtype=np.int64)
        self._stamps: _Ints = np.zeros(rows, dtype=np.int64)
        self._tables: NDArray[np.int32] = np.zeros((rows, width), dtype=np.int32)


class DenseStep:
    """One step's decoding sequences over their dense rows.

    Args:
        layers: dense keys and values by the address of the layer's paged keys.
        tokens: int ``[n]``, the sequences' rows in the packed batch, ascending.
        rows: int64 ``[n]``, their rows of dense memory.
        seq_lens: int ``[n]``, slots after this step.
        fills: (row, slots, pages) of the rows to be gathered.
    """

    def __init__(
        self,
        layers: dict[int, tuple[Tensor, Tensor]],
        tokens: NDArray[np.int32],
        rows: _Ints,
        seq_lens: NDArray[np.int32],
        fills: list[tuple[int, int, Tensor]],
    ) -> None:
        self._layers = layers
        self._tokens = tokens.astype(np.int64)
        self._rows = rows
        self._seq_lens = seq_lens.astype(np.int64)
        self._fills = fills
        self._token_rows = _rows_index(self._tokens)
        self._targets: dict[tuple[int, int], Tensor] = {}

    def update(
        self, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add this step's tokens, once their pages are written; the layer's dense memory."""
        dense = self._layers[key_cache.data_ptr()]
        for row, length, pages in self._fills:
            for memory, cache in zip(dense, (key_cache, value_cache), strict=True):
                gathered = cache.index_select(0, pages).flatten(0, 1)[:length]
                memory[row, :, :length] = gathered.transpose(0, 1)
                memory[row, :, length:] = 0  # what another sequence left
        if len(key) != len(self._tokens):
            key, value = key[self._token_rows], value[self._token_rows]
        for memory, new in zip(dense, (key, value), strict=True):
            _, heads, slots, dim = memory.shape
            target = self._target(heads, slots)
            memory.view(-1, dim).index_copy_(0, target, new.reshape(-1, dim))
        return dense

    def _target(self, heads: int, slots: int) -> Tensor:
        """Where the new tokens' heads go in the memory of a layer, seen as a list of vectors."""
        target = self._targets.get((heads, slots))
        if target is None:
            vectors = self._rows[:, None] * heads + np.arange(heads)
            places = vectors * slots + self._seq_lens[:, None] - 1
            target = self._targets[heads, slots] = torch.from_numpy(places.reshape(-1))
        return target

    def segments(self, window: int | None) -> list[Segment]:
        """All rows at once where they are of like lengths and few are idle, else one by one."""
        firsts = np.zeros_like(self._seq_lens)
        if window is not None:
            firsts = np.maximum(self._seq_lens - window, 0)
        first, num_rows = int(firsts.min()), int(self._rows.max()) + 1
        length = int(self._seq_lens.max()) - first
        one_by_one = int((self._seq_lens - firsts).sum()) + _SEGMENT_COST * len(self._rows)
        if num_rows * length > one_by_one:
            return [self._alone(i, int(firsts[i])) for i in range(len(self._rows))]
        return [self._together(firsts, first, num_rows, length)]

    def _alone(self, i: int, first: int) -> Segment:
        token, length = int(self._tokens[i]), int(self._seq_lens[i]) - first
        rows = slice(token, token + 1)
        return Segment(rows, 1, 1, length, dense=(int(self._rows[i]), first))

    def _together(self, firsts: _Ints, first: int, num_rows: int, length: int) -> Segment:
        starts, ends = np.zeros(num_rows, dtype=np.int64), np.ones(num_rows, dtype=np.int64)
        starts[self._rows], ends[self._rows] = firsts - first, self._seq_lens - first
        slots = np.arange(length)
        visible = (slots >= starts[:, None]) & (slots < ends[:, None])
        mask = None if visible.all() else torch.from_numpy(visible[:, None, :])
        dense = (0, first)
        if np.array_equal(self._rows, np.arange(num_rows)):
            return Segment(self._token_rows, num_rows, 1, length, dense=dense, visible=mask)
        # Rows that do not decode in this step compute something that nobody reads.
        source = np.zeros(num_rows, dtype=np.int64)
        source[self._rows] = self._tokens
        return Segment(
            torch.from_numpy(source),
            num_rows,
            1,
            length,
            dense=dense,
            visible=mask,
            kept=torch.from_numpy(self._rows),
            kept_rows=self._token_rows,
        )


def _dense(cache: Tensor, rows: int, slots: int) -> Tensor:
    # Zeroed, since slots beyond a sequence's end are masked by adding minus infinity.
    return torch.zeros(rows, cache.shape[2], slots, cache.shape[3], dtype=cache.dtype)


def _rows_index(rows: _Ints) -> Rows:
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == len(rows):
        return slice(first, last + 1)
    return torch.from_numpy(rows)
