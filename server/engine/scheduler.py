"""Decides what each step computes: first come, first served.

A step mixes decodes with chunks of prefill under two limits, tokens and sequences. Running
sequences are always older than waiting ones. When blocks run out, the newest running sequence
gives up its blocks and returns to the head of the waiting ones, to be computed again (its full
blocks stay findable in the pool until they are needed).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np

from .batch import pack_batch
from .block_pool import BlockPool
from .errors import CacheFullError
from .pin_table import PinTable
from .pinned import PinnedCache
from .request import FinishReason
from .scheduler_output import ScheduledSequence, SchedulerOutput
from .sequence import Sequence

INVALID_TOKEN = -1
"""Given to ``Scheduler.update`` for a sequence whose logits are not finite."""

PROMPT_LOGPROBS_CHUNK = 256
"""Prompt tokens a step for a request that wants their logits, which are large."""


@dataclass(slots=True)
class SchedulerCounters:
    """Totals since the start."""

    preemptions: int = 0
    prefix_queries: int = 0
    """Tokens looked up in the prefix cache."""
    prefix_hits: int = 0
    """Tokens found there."""


class Scheduler:
    """Chooses sequences, gives them blocks, and records what a step computed.

    Args:
        pool: where the blocks come from.
        max_num_seqs: most sequences that run at once.
        max_num_batched_tokens: most tokens in a step.
        max_model_len: most positions of a sequence.
        enable_prefix_caching: whether full blocks are found again by content.
    """

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        enable_prefix_caching: bool = True,
    ) -> None:
        self.pool = pool
        self.pins = PinTable(pool)
        self.counters = SchedulerCounters()
        self.ended: list[Sequence] = []
        """Sequences that ended outside ``update``; the engine reports them and clears the list."""
        self._max_num_batched_tokens = max_num_batched_tokens
        self._prefix_caching = enable_prefix_caching
        self._waiting: OrderedDict[str, Sequence] = OrderedDict()
        self._running: dict[str, Sequence] = {}  # oldest first
        self._num_reserved = 0
        self._free_rows = list(range(max_num_seqs - 1, -1, -1))
        max_blocks = min(pool.num_blocks, -(-max_model_len // pool.block_size))
        self._block_table = np.zeros((max_num_seqs, max_blocks), dtype=np.int32)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    @property
    def capacity(self) -> int:
        """Blocks that sequences can use at best: all but the pinned ones."""
        return self.pool.num_blocks - self.pins.num_blocks

    def blocks_needed(self, num_tokens: int, pinned: PinnedCache | None) -> int:
        """Own blocks of a sequence of ``num_tokens`` tokens after a pinned cache."""
        offset = pinned.slots if pinned else 0
        size = self.pool.block_size
        return -(-(offset + num_tokens) // size) - offset // size

    # --- what enters and leaves ---

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence behind all others.

        Raises:
            CacheFullError: if its prompt could never lie in the pool.
            ValueError: if its pinned cache has been unpinned, or its request id is in use.
        """
        if sequence.request_id in self._waiting or sequence.request_id in self._running:
            raise ValueError(f"request_id {sequence.request_id!r} is in use")
        self.check(sequence)
        if sequence.request.pinned:
            self.pins.enter(sequence.request.pinned)
        self._waiting[sequence.request_id] = sequence

    def check(self, sequence: Sequence) -> None:
        """Whether ``add`` would take the sequence now; may be called from any thread.

        Raises:
            CacheFullError, ValueError: as ``add``.
        """
        pinned = sequence.request.pinned
        if pinned and not self.pins.is_pinned(pinned):
            raise ValueError("the request's pinned cache is not pinned (any more)")
        needed = self.blocks_needed(len(sequence.token_ids), pinned)
        if needed > self.capacity:
            size = self.pool.block_size
            raise CacheFullError(
                f"A prompt of {len(sequence.token_ids)} tokens needs {needed * size} slots of the "
                f"key/value cache, which has {self.capacity * size} for requests. "
                "Shorten the prompt, delete registered prompts, or raise --kv-cache-memory."
            )

    def has_begun(self, request_id: str) -> bool:
        """Whether a sequence has ever run; may be called from any thread."""
        sequence = self._running.get(request_id) or self._waiting.get(request_id)
        if sequence is None:  # it may have moved between the two
            return request_id in self._running
        return sequence.num_cached_tokens is not None

    def end(self, request_id: str, reason: FinishReason, error: str | None = None) -> None:
        """Ends a sequence and frees its blocks now; unknown ids are ignored."""
        sequence = self._running.get(request_id) or self._waiting.get(request_id)
        if sequence is not None:
            self._finish(sequence, reason, error)
            self.ended.append(sequence)

    def end_all(self, reason: FinishReason, error: str | None = None) -> None:
        """Ends every sequence."""
        for request_id in [*self._running, *self._waiting]:
            self.end(request_id, reason, error)

    # --- blocks for others than sequences ---

    def reserve(self, num_blocks: int) -> list[int]:
        """Blocks for a compression or a pin; preempts the newest sequences where needed.

        Raises:
            CacheFullError: if there are not as many even with no sequence running.
        """
        available = self.capacity - self._num_reserved
        if num_blocks > available:
            size = self.pool.block_size
            raise CacheFullError(
                f"{num_blocks * size} slots of the key/value cache are needed, but at most "
                f"{max(0, available) * size} can be had beside the prompts that are pinned. "
                "Delete registered prompts or raise --kv-cache-memory."
            )
        while self.pool.num_free < num_blocks:
            self._preempt_newest()
        self._num_reserved += num_blocks
        return self.pool.allocate(num_blocks)

    def release(self, block_ids: SequenceOf[int]) -> None:
        """Gives reserved blocks back."""
        self._num_reserved -= len(block_ids)
        self.pool.release(block_ids)

    def pin(self, pinned: PinnedCache) -> None:
        """Turns the reserved blocks of a cache into pinned ones."""
        self._num_reserved -= len(pinned.block_ids)
        self.pins.add(pinned)

    def check_room_for_pin(self, num_blocks: int) -> None:
        """Makes sure that every queued or running sequence still fits beside another pin.

        Raises:
            CacheFullError: if one would not.
        """
        sequences = [*self._running.values(), *self._waiting.values()]
        needed = max(
            (self.blocks_needed(len(s.token_ids) + 1, s.request.pinned) for s in sequences),
            default=0,
        )
        if num_blocks + needed > self.capacity - self._num_reserved:
            size = self.pool.block_size
            raise CacheFullError(
                f"The key/value cache cannot keep {num_blocks * size} more slots pinned: "
                f"{self.capacity * size} are not pinned yet, and a request needs "
                f"{needed * size} of them. Delete registered prompts or raise --kv-cache-memory."
            )

    # --- a step ---

    def schedule(self) -> SchedulerOutput:
        """The next step's batch; empty if nothing can run.

        Sequences that cannot go on for want of blocks end here and are put into ``ended``.
        """
        preemptions = self.counters.preemptions
        scheduled: list[ScheduledSequence] = []
        budget = self._max_num_batched_tokens
        for sequence in list(self._running.values()):
            if budget == 0 or sequence.row < 0:
                break
            num_new = self._chunk(sequence, budget)
            if self._grow(sequence, num_new):
                scheduled.append(_share(sequence, num_new))
                budget -= num_new
        copies: list[tuple[int, int]] = []
        if self.counters.preemptions == preemptions:
            while budget and self._waiting and self._free_rows:
                sequence = next(iter(self._waiting.values()))
                if not self._admit(sequence, copies):
                    break
                num_new = self._chunk(sequence, budget)
                scheduled.append(_share(sequence, num_new))
                budget -= num_new
        self._end_stuck()
        return pack_batch(scheduled, self._block_table, self.pool.block_size, copies)

    def update(self, output: SchedulerOutput, token_ids: SequenceOf[int]) -> None:
        """Records a computed step.

        Args:
            output: what ``schedule`` returned.
            token_ids: one drawn token for each sequence with ``samples``, in order;
                ``INVALID_TOKEN`` where none could be drawn.
        """
        drawn = iter(token_ids)
        size = self.pool.block_size
        for share in output.sequences:
            sequence = share.sequence
            computed = sequence.num_computed_tokens = share.start + share.num_new_tokens
            if self._prefix_caching and not sequence.request.embed:
                full = (sequence.slot_offset + computed) // size - sequence.slot_offset // size
                if full > sequence.num_registered_blocks:
                    self._register(sequence, full)
            if share.samples:
                self._append(sequence, next(drawn))
            elif sequence.max_output_tokens == 0 and computed == len(sequence.token_ids):
                self._finish(sequence, "stop" if sequence.request.embed else "length")

    def split(self, output: SchedulerOutput) -> list[SchedulerOutput]:
        """The step as one of each of its sequences, without the copies."""
        size = self.pool.block_size
        return [pack_batch([s], self._block_table, size, []) for s in output.sequences]

    # --- inside ---

    def _chunk(self, sequence: Sequence, budget: int) -> int:
        num_new = min(len(sequence.token_ids) - sequence.num_computed_tokens, budget)
        if num_new > PROMPT_LOGPROBS_CHUNK and sequence.wants_prompt_logprobs:
            return PROMPT_LOGPROBS_CHUNK
        return num_new

    def _grow(self, sequence: Sequence, num_new: int) -> bool:
        """Makes room for the next tokens; False if the sequence lost its place or ended."""
        slots = sequence.slot_offset + sequence.num_computed_tokens + num_new
        missing = -(-slots // self.pool.block_size) - len(sequence.block_ids)
        if missing <= 0:
            return True
        while self.pool.num_free < missing:
            if len(self._running) == 1 and not self._num_reserved:
                self._finish(sequence, "length")  # all the memory there is holds this sequence
                self.ended.append(sequence)
                return False
            self._preempt_newest()
            if sequence.row < 0:
                return False
        self._give(sequence, self.pool.allocate(missing))
        return True

    def _admit(self, sequence: Sequence, copies: list[tuple[int, int]]) -> bool:
        """Moves the oldest waiting sequence to the running ones if all its tokens find blocks.

        A free block is left for each running sequence: without it, an admission would soon be
        paid back by a preemption.
        """
        pool, pinned = self.pool, sequence.request.pinned
        hits = self._prefix_hits(sequence)
        missing = self.blocks_needed(len(sequence.token_ids), pinned) - len(hits)
        if pool.num_free - pool.count_free(hits) - len(self._running) < missing:
            return False
        shared = list(pinned.block_ids[: pinned.slots // pool.block_size]) if pinned else []
        pool.retain(shared)
        pool.retain(hits)
        own = pool.allocate(missing)
        if pinned and not hits and pinned.slots % pool.block_size:
            copies.append((pinned.block_ids[-1], own[0]))
        del self._waiting[sequence.request_id]
        self._running[sequence.request_id] = sequence
        sequence.row = self._free_rows.pop()
        self._give(sequence, shared + hits + own)
        self._start_after(sequence, len(hits))
        return True

    def _prefix_hits(self, sequence: Sequence) -> list[int]:
        """Known blocks at the sequence's start; at least one token is left to compute."""
        skip = sequence.wants_prompt_logprobs or sequence.request.embed
        if not self._prefix_caching or skip:
            return []
        size = self.pool.block_size
        usable = sequence.num_full_blocks(len(sequence.token_ids) - 1, size)
        return self.pool.match(sequence.block_hash(i, size) for i in range(usable))

    def _start_after(self, sequence: Sequence, num_hits: int) -> None:
        """Skips the tokens of the first own blocks, which the prefix cache has."""
        size = self.pool.block_size
        num_tokens = num_hits * size - sequence.slot_offset % size if num_hits else 0
        sequence.num_computed_tokens = num_tokens
        sequence.num_registered_blocks = num_hits
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = num_tokens
            self.counters.prefix_queries += sequence.num_prompt_tokens
            self.counters.prefix_hits += num_tokens

    def _give(self, sequence: Sequence, block_ids: list[int]) -> None:
        start = len(sequence.block_ids)
        sequence.block_ids += block_ids
        if len(block_ids) == 1:
            self._block_table[sequence.row, start] = block_ids[0]
        else:
            self._block_table[sequence.row, start : start + len(block_ids)] = block_ids

    def _register(self, sequence: Sequence, num_full: int) -> None:
        first = sequence.slot_offset // self.pool.block_size
        for index in range(sequence.num_registered_blocks, num_full):
            block_hash = sequence.block_hash(index, self.pool.block_size)
            self.pool.register(sequence.block_ids[first + index], block_hash)
        sequence.num_registered_blocks = num_full

    def _append(self, sequence: Sequence, token_id: int) -> None:
        if token_id == INVALID_TOKEN:
            # Whoever begins alike shall not fail alike.
            self.pool.forget(sequence.block_ids)
            self._finish(sequence, "error", _why_no_token(sequence))
            return
        sequence.token_ids.append(token_id)
        if token_id in sequence.stop_token_ids:
            sequence.stop_token_id = token_id
            self._finish(sequence, "stop")
        elif _completes(sequence, token_id):
            self._finish(sequence, "stop")
        elif sequence.num_output_tokens >= sequence.max_output_tokens:
            self._finish(sequence, "length")

    def _preempt_newest(self) -> None:
        _, sequence = self._running.popitem()
        self.counters.preemptions += 1
        self._take_blocks(sequence)
        sequence.num_computed_tokens = 0
        if sequence.wants_prompt_logprobs:
            sequence.prompt_logprobs.clear()
        self._waiting[sequence.request_id] = sequence
        self._waiting.move_to_end(sequence.request_id, last=False)

    def _finish(self, sequence: Sequence, reason: FinishReason, error: str | None = None) -> None:
        sequence.finish_reason = reason
        sequence.error = error
        if sequence.row < 0:
            del self._waiting[sequence.request_id]
        else:
            del self._running[sequence.request_id]
            self._take_blocks(sequence)
        if sequence.request.pinned:
            self.pins.leave(sequence.request.pinned)

    def _take_blocks(self, sequence: Sequence) -> None:
        self.pool.release(sequence.block_ids)
        self._block_table[sequence.row, : len(sequence.block_ids)] = 0
        sequence.block_ids = []
        self._free_rows.append(sequence.row)
        sequence.row = -1

    def _end_stuck(self) -> None:
        """Ends the oldest waiting sequence if nothing else will ever make room for it."""
        if self._running or self._num_reserved or not self._waiting or self.ended:
            return
        sequence = next(iter(self._waiting.values()))
        message = (
            "the key/value cache no longer has room for this request beside the pinned prompts"
        )
        self.end(sequence.request_id, "error", message)


def _share(sequence: Sequence, num_new: int) -> ScheduledSequence:
    start = sequence.num_computed_tokens
    samples = start + num_new == len(sequence.token_ids) and sequence.max_output_tokens > 0
    num_logits = num_new if sequence.wants_prompt_logprobs else int(samples)
    return ScheduledSequence(sequence, start, num_new, num_logits, samples)


def _completes(sequence: Sequence, token_id: int) -> bool:
    """Whether the sequence has a grammar, and nothing can follow this token."""
    constraint = sequence.constraint
    if constraint is None:
        return False
    constraint.accept(token_id)
    return constraint.is_complete and constraint.error is None


def _why_no_token(sequence: Sequence) -> str:
    if sequence.constraint is not None and sequence.constraint.error:
        return f"the grammar became too complex: {sequence.constraint.error}"
    return "the model's logits are not finite"
