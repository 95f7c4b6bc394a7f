"""A model runner without a model: it checks that every token sees exactly its own history.

Each slot remembers what was written into it: the whole history that a token's key depends on. The
next token is a function of that history, so the tokens of a sequence must not depend on batching,
chunks, preemption or shared blocks.
"""

import numpy as np
from gistserve.server.engine.block_pool import BlockPool
from gistserve.server.engine.pinned import PinnedCache
from gistserve.server.engine.request import Request
from gistserve.server.engine.scheduler import Scheduler
from gistserve.server.engine.scheduler_output import SchedulerOutput
from gistserve.server.engine.sequence import Sequence

VOCAB = 5
STALE = ("stale",)


def history(request: Request, token_ids: list[int]) -> list[tuple]:
    """What each slot of a sequence must hold, first slot first."""
    pinned = request.pinned
    root = pinned.key if pinned else b""
    slots = [("pin", root, i) for i in range(pinned.slots)] if pinned else []
    return slots + [(root, *token_ids[: i + 1]) for i in range(len(token_ids))]


def next_token(request: Request, token_ids: list[int]) -> int:
    """A fixed function of the history; few values, so that sequences often agree."""
    start = request.pinned.next_position if request.pinned else 0
    return (sum((i + 1) * t for i, t in enumerate(token_ids)) + start) % VOCAB


def expected_output(request: Request, count: int) -> list[int]:
    tokens = list(request.token_ids)
    for _ in range(count):
        tokens.append(next_token(request, tokens))
    return tokens[len(request.token_ids) :]


class FakeRunner:
    """Executes scheduler outputs on a cache of histories, and checks them on the way."""

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool
        self.slots: list[tuple] = [STALE] * (pool.num_blocks * pool.block_size)

    def pin(self, scheduler: Scheduler, key: bytes, slots: int, next_position: int) -> PinnedCache:
        """Pins a cache as ``EngineCore.pin`` does."""
        num_blocks = -(-slots // self.pool.block_size)
        scheduler.check_room_for_pin(num_blocks)
        block_ids = scheduler.reserve(num_blocks)
        for i in range(slots):
            self.slots[self.flat(block_ids, i)] = ("pin", key, i)
        pinned = PinnedCache(key, "gist", slots, next_position, next_position, tuple(block_ids), 0)
        scheduler.pin(pinned)
        return pinned

    def flat(self, block_ids, slot: int) -> int:
        size = self.pool.block_size
        return int(block_ids[slot // size]) * size + slot % size

    def execute(self, output: SchedulerOutput) -> list[int]:
        """Runs a step and returns the tokens that it draws."""
        self._copy(output)
        self._check_shapes(output)
        size = self.pool.block_size
        for share, begin in zip(output.sequences, output.query_start_loc, strict=False):
            truth = history(share.sequence.request, share.sequence.token_ids)
            for offset in range(share.num_new_tokens):
                flat = int(output.slot_mapping[begin + offset])
                self._check_writable(flat // size)
                self.slots[flat] = truth[share.sequence.slot_offset + share.start + offset]
        for row, share in enumerate(output.sequences):
            truth = history(share.sequence.request, share.sequence.token_ids)
            length = int(output.seq_lens[row])
            table = output.block_table[row]
            assert [self.slots[self.flat(table, i)] for i in range(length)] == truth[:length]
        drawing = [s.sequence for s in output.sequences if s.samples]
        return [next_token(s.request, s.token_ids) for s in drawing]

    def _copy(self, output: SchedulerOutput) -> None:
        size = self.pool.block_size
        for source, target in output.block_copies:
            self._check_writable(target)
            copied = self.slots[source * size : (source + 1) * size]
            self.slots[target * size : (target + 1) * size] = copied

    def _check_writable(self, block_id: int) -> None:
        assert self.pool.ref_count(block_id) == 1, "a shared block is written"
        assert not self.pool.is_registered(block_id), "a block that can be found is written"

    @staticmethod
    def _check_shapes(output: SchedulerOutput) -> None:
        counts = np.diff(output.query_start_loc)
        assert counts.tolist() == [s.num_new_tokens for s in output.sequences]
        assert len(output.token_ids) == len(output.positions) == len(output.slot_mapping)
        assert output.max_query_len == counts.max() and output.max_seq_len == max(output.seq_lens)
        for share, begin, length in zip(
            output.sequences, output.query_start_loc, output.seq_lens, strict=False
        ):
            sequence, count = share.sequence, share.num_new_tokens
            span = slice(share.start, share.start + count)
            assert output.token_ids[begin : begin + count].tolist() == sequence.token_ids[span]
            first = sequence.position_offset + share.start
            assert output.positions[begin : begin + count].tolist() == list(
                range(first, first + count)
            )
            assert length == sequence.slot_offset + share.start + count


def run_to_end(scheduler: Scheduler, runner: FakeRunner, max_steps: int = 10_000) -> None:
    """Steps until nothing is left."""
    for _ in range(max_steps):
        if not scheduler.has_work:
            return
        output = scheduler.schedule()
        scheduler.update(output, runner.execute(output) if output.sequences else [])
    raise AssertionError("the scheduler makes no progress")


def output_of(sequence: Sequence) -> list[int]:
    return sequence.token_ids[sequence.num_prompt_tokens :]
