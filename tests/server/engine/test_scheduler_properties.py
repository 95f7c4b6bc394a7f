"""Random traffic: whatever comes, limits hold, tokens are right and no block is lost."""

from dataclasses import dataclass, field

import pytest
from gistserve.server.engine.block_pool import BlockPool
from gistserve.server.engine.errors import CacheFullError
from gistserve.server.engine.pinned import PinnedCache
from gistserve.server.engine.request import Request, SamplingParams
from gistserve.server.engine.scheduler import Scheduler
from gistserve.server.engine.sequence import Sequence
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from .fake_runner import VOCAB, FakeRunner, expected_output, output_of

BLOCK = 4
TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=30)  # few values: prefixes often agree


@dataclass
class Traffic:
    """What the machine knows about its requests."""

    alive: dict[str, Sequence] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)  # of arrival


class SchedulerMachine(RuleBasedStateMachine):
    """Submits, aborts, pins, unpins, reserves and steps in any order."""

    @initialize(
        num_blocks=st.integers(4, 24),
        max_num_seqs=st.integers(1, 5),
        budget=st.integers(1, 24),
        prefix=st.booleans(),
    )
    def start(self, num_blocks, max_num_seqs, budget, prefix):
        self.pool = BlockPool(num_blocks, BLOCK)
        self.max_num_seqs, self.budget = max_num_seqs, budget
        self.scheduler = Scheduler(
            self.pool,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=budget,
            max_model_len=200,
            enable_prefix_caching=prefix,
        )
        self.runner = FakeRunner(self.pool)
        self.traffic = Traffic()
        self.pins: list[PinnedCache] = []
        self.reserved: list[list[int]] = []
        self.num_names = 0

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        for blocks in self.reserved:
            self.scheduler.release(blocks)
        for pinned in self.pins:
            self.scheduler.pins.unpin(pinned, lambda: None)
        self.reserved, self.pins = [], []
        for _ in range(5000):
            if not self.scheduler.has_work:
                break
            self.step()
        assert not self.scheduler.has_work, "the scheduler makes no progress"
        assert self.pool.num_used == 0 and self.scheduler.pins.num_blocks == 0
        self.pool.check()

    @rule(
        tokens=TOKENS,
        max_tokens=st.integers(0, 12),
        which=st.none() | st.integers(0, 9),
        stop=st.none() | st.integers(0, VOCAB - 1),
        prompt_logprobs=st.sampled_from([None, None, 0]),
    )
    def submit(self, tokens, max_tokens, which, stop, prompt_logprobs):
        pinned = self.pins[which % len(self.pins)] if which is not None and self.pins else None
        params = SamplingParams(
            max_tokens=max_tokens,
            stop_token_ids=() if stop is None else (stop,),
            prompt_logprobs=prompt_logprobs,
        )
        name = f"r{self.num_names}"
        self.num_names += 1
        sequence = Sequence(Request(name, tokens, params, pinned), max_tokens)
        try:
            self.scheduler.add(sequence)
        except CacheFullError:
            needed = self.scheduler.blocks_needed(len(tokens), pinned)
            assert needed > self.pool.num_blocks - self.scheduler.pins.num_blocks
            return
        self.traffic.alive[name] = sequence
        self.traffic.order.append(name)

    @precondition(lambda self: self.traffic.alive)
    @rule(which=st.integers(0, 99))
    def abort(self, which):
        names = list(self.traffic.alive)
        self.scheduler.end(names[which % len(names)], "abort")
        self.forget_ended()

    @rule(slots=st.integers(1, 18), extra=st.integers(0, 40))
    def pin(self, slots, extra):
        key = bytes([self.num_names % 256, len(self.pins)]) * 16
        self.num_names += 1
        try:
            self.pins.append(self.runner.pin(self.scheduler, key, slots, slots + extra))
        except CacheFullError:
            return

    @precondition(lambda self: self.pins)
    @rule(which=st.integers(0, 9))
    def unpin(self, which):
        pinned = self.pins.pop(which % len(self.pins))
        self.scheduler.pins.unpin(pinned, lambda: None)

    @rule(count=st.integers(1, 6))
    def reserve(self, count):
        available = self.pool.num_blocks - self.scheduler.pins.num_blocks
        available -= sum(map(len, self.reserved))
        if count > available:
            with pytest.raises(CacheFullError):
                self.scheduler.reserve(count)
        else:
            self.reserved.append(self.scheduler.reserve(count))

    @precondition(lambda self: self.reserved)
    @rule()
    def give_back(self):
        self.scheduler.release(self.reserved.pop())

    @rule(count=st.integers(1, 6))
    def steps(self, count):
        for _ in range(count):
            self.step()

    def step(self):
        output = self.scheduler.schedule()
        self.forget_ended()
        if output.sequences:
            assert output.num_tokens <= self.budget
            assert len(output.sequences) <= self.max_num_seqs
            names = [s.sequence.request_id for s in output.sequences]
            arrival = [self.traffic.order.index(name) for name in names]
            assert arrival == sorted(arrival), "a newer sequence came before an older one"
            self.check_no_overtaking(set(names))
            self.scheduler.update(output, self.runner.execute(output))
        for name, sequence in list(self.traffic.alive.items()):
            if sequence.finish_reason is not None:
                self.check_result(sequence)
                del self.traffic.alive[name]

    def check_no_overtaking(self, scheduled):
        """Nobody starts while an older one waits."""
        waiting = [n for n in self.traffic.order if n in self.scheduler._waiting]
        if waiting:
            oldest = self.traffic.order.index(waiting[0])
            assert all(self.traffic.order.index(name) < oldest for name in scheduled)

    def forget_ended(self):
        """Sequences that ended without a step: aborted, or out of memory."""
        for sequence in self.scheduler.ended:
            assert sequence.finish_reason in ("abort", "length"), sequence.error
            drawn = output_of(sequence)
            assert drawn == expected_output(sequence.request, len(drawn))
            del self.traffic.alive[sequence.request_id]
        self.scheduler.ended.clear()

    def check_result(self, sequence):
        drawn = output_of(sequence)
        assert drawn == expected_output(sequence.request, len(drawn))
        if sequence.finish_reason == "stop":
            assert drawn[-1] in sequence.stop_token_ids
        else:
            assert sequence.finish_reason == "length"
            assert len(drawn) == sequence.max_output_tokens

    @invariant()
    def every_reference_has_an_owner(self):
        if not hasattr(self, "scheduler"):
            return
        self.pool.check()
        counts = [0] * self.pool.num_blocks
        pins = [e.pinned for e in self.scheduler.pins._entries.values()]
        holders = [s.block_ids for s in self.traffic.alive.values()] + self.reserved
        for blocks in [*holders, *(p.block_ids for p in pins)]:
            for block in blocks:
                counts[block] += 1
        assert counts == [self.pool.ref_count(i) for i in range(self.pool.num_blocks)]
        assert self.scheduler.num_running <= self.max_num_seqs
        alive = self.scheduler.num_running + self.scheduler.num_waiting
        assert alive == len(self.traffic.alive)


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
