"""The scheduler on its own: order, limits, blocks, and the same tokens whatever happens."""

import pytest
from gistserve.server.engine.block_pool import BlockPool
from gistserve.server.engine.errors import CacheFullError
from gistserve.server.engine.request import Request, SamplingParams
from gistserve.server.engine.scheduler import INVALID_TOKEN, PROMPT_LOGPROBS_CHUNK, Scheduler
from gistserve.server.engine.sequence import Sequence

from .fake_runner import FakeRunner, expected_output, output_of, run_to_end

BLOCK = 4


def make(num_blocks=16, *, max_num_seqs=4, budget=32, max_model_len=512, prefix=True):
    pool = BlockPool(num_blocks, BLOCK)
    scheduler = Scheduler(
        pool,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        max_model_len=max_model_len,
        enable_prefix_caching=prefix,
    )
    return scheduler, FakeRunner(pool)


def seq(name, tokens, max_tokens=4, pinned=None, **sampling):
    params = SamplingParams(max_tokens=max_tokens, **sampling)
    return Sequence(Request(name, tokens, params, pinned), max_tokens)


def step(scheduler, runner):
    """One step; returns {request id: tokens computed}."""
    output = scheduler.schedule()
    scheduler.update(output, runner.execute(output) if output.sequences else [])
    return {s.sequence.request_id: s.num_new_tokens for s in output.sequences}


def test_prefill_chunks_share_a_step_with_decodes_and_keep_the_budget():
    scheduler, runner = make(budget=8)
    scheduler.add(seq("a", [1] * 3))
    scheduler.add(seq("b", [2] * 14))
    scheduler.add(seq("c", [3] * 2))
    assert step(scheduler, runner) == {"a": 3, "b": 5}
    assert step(scheduler, runner) == {"a": 1, "b": 7}
    assert step(scheduler, runner) == {"a": 1, "b": 2, "c": 2}
    assert step(scheduler, runner) == {"a": 1, "b": 1, "c": 1}


def test_first_come_first_served_without_overtaking():
    scheduler, runner = make(num_blocks=8, budget=64)
    scheduler.add(seq("a", [1] * 12))
    scheduler.add(seq("large", [2] * 24))
    scheduler.add(seq("small", [3]))
    assert list(step(scheduler, runner)) == ["a"]
    while scheduler.num_running and "a" in scheduler._running:
        assert list(step(scheduler, runner)) == ["a"]
    assert list(step(scheduler, runner)) == ["large", "small"]


def test_max_num_seqs_is_kept():
    scheduler, runner = make(max_num_seqs=2, num_blocks=64)
    for name in "abc":
        scheduler.add(seq(name, [1, 2], max_tokens=3))
    sizes = []
    while scheduler.has_work:
        sizes.append(len(step(scheduler, runner)))
    assert max(sizes) == 2 and sum(sizes) == 9


def test_the_newest_is_preempted_and_goes_on_first():
    scheduler, runner = make(num_blocks=6, budget=64, prefix=False)
    sequences = {n: seq(n, [i] * 7, max_tokens=8) for i, n in enumerate("abc")}
    for sequence in sequences.values():
        scheduler.add(sequence)
    assert list(step(scheduler, runner)) == ["a", "b"]  # c would leave no block to grow into
    while not scheduler.counters.preemptions:
        step(scheduler, runner)
    assert list(scheduler._running) == ["a"]
    assert list(scheduler._waiting) == ["b", "c"]
    run_to_end(scheduler, runner)
    for sequence in sequences.values():
        assert output_of(sequence) == expected_output(sequence.request, 8)
        assert sequence.finish_reason == "length"


def test_a_preempted_sequence_finds_its_own_blocks_again():
    scheduler, runner = make(num_blocks=8, budget=64)
    first, second = seq("a", [1] * 12, 4), seq("b", [2] * 9, 8)
    scheduler.add(first)
    scheduler.add(second)
    step(scheduler, runner)
    blocks = scheduler.reserve(3)
    assert list(scheduler._waiting) == ["b"]
    scheduler.release(blocks)
    assert step(scheduler, runner) == {"a": 1, "b": 2}  # of 10 tokens, 8 lie in full blocks
    run_to_end(scheduler, runner)
    assert output_of(second) == expected_output(second.request, 8)


def test_prefix_hits_leave_a_token_to_compute():
    scheduler, runner = make()
    tokens = [1, 2, 3, 4, 5, 6, 7, 8]
    scheduler.add(seq("a", tokens))
    run_to_end(scheduler, runner)
    again = seq("b", tokens)
    scheduler.add(again)
    assert step(scheduler, runner) == {"b": 4}
    assert again.num_cached_tokens == 4
    longer = seq("c", [*tokens, 9])
    scheduler.add(longer)
    assert step(scheduler, runner)["c"] == 1
    assert longer.num_cached_tokens == 8
    counters = scheduler.counters
    assert (counters.prefix_queries, counters.prefix_hits) == (8 + 8 + 9, 12)


def test_a_prefix_in_use_is_shared_by_reference():
    scheduler, runner = make()
    tokens = list(range(9))
    first, second = seq("a", tokens, 20), seq("b", [*tokens, 9, 9, 9], 20)
    scheduler.add(first)
    step(scheduler, runner)
    scheduler.add(second)
    step(scheduler, runner)
    assert second.block_ids[:2] == first.block_ids[:2]
    assert [scheduler.pool.ref_count(b) for b in first.block_ids[:3]] == [2, 2, 1]
    run_to_end(scheduler, runner)
    assert scheduler.pool.num_used == 0


def test_another_prefix_is_no_hit():
    scheduler, runner = make()
    scheduler.add(seq("a", [1] * 9))
    run_to_end(scheduler, runner)
    other = seq("b", [2, *[1] * 8])
    scheduler.add(other)
    step(scheduler, runner)
    assert other.num_cached_tokens == 0


def test_prefix_caching_can_be_off():
    scheduler, runner = make(prefix=False)
    for name in "ab":
        sequence = seq(name, [1] * 9)
        scheduler.add(sequence)
        run_to_end(scheduler, runner)
    assert sequence.num_cached_tokens == 0
    assert scheduler.pool.match([sequence.block_hash(0, BLOCK)]) == []


def test_prompt_logprobs_need_every_token_in_small_chunks():
    scheduler, runner = make(num_blocks=400, budget=1000, max_model_len=1000)
    tokens = [1] * (PROMPT_LOGPROBS_CHUNK + 10)
    scheduler.add(seq("a", tokens))
    run_to_end(scheduler, runner)
    sequence = seq("b", tokens, prompt_logprobs=0)
    scheduler.add(sequence)
    output = scheduler.schedule()
    assert len(output.logits_indices) == output.num_tokens == PROMPT_LOGPROBS_CHUNK
    scheduler.update(output, runner.execute(output))
    output = scheduler.schedule()
    assert output.logits_indices.tolist() == list(range(10))
    scheduler.update(output, runner.execute(output))
    output = scheduler.schedule()
    assert output.logits_indices.tolist() == [0]


def test_logits_are_asked_for_last_tokens_only():
    scheduler, runner = make(budget=10)
    scheduler.add(seq("a", [1] * 3))
    scheduler.add(seq("b", [2] * 4, max_tokens=0))
    scheduler.add(seq("c", [3] * 9))
    output = scheduler.schedule()
    assert [s.num_new_tokens for s in output.sequences] == [3, 4, 3]
    assert output.logits_indices.tolist() == [2]
    scheduler.update(output, runner.execute(output))
    assert "b" not in scheduler._running


def test_a_prompt_that_can_never_fit_is_refused():
    scheduler, _ = make(num_blocks=4)
    with pytest.raises(CacheFullError, match=r"20 slots.*has 16.*--kv-cache-memory"):
        scheduler.add(seq("a", [1] * 17))
    assert not scheduler.has_work


def test_a_sequence_that_fills_the_pool_ends_with_length():
    scheduler, runner = make(num_blocks=3)
    sequence = seq("a", [1] * 6, max_tokens=100)
    scheduler.add(sequence)
    run_to_end(scheduler, runner)
    assert sequence.finish_reason == "length"
    assert len(sequence.token_ids) == 3 * BLOCK + 1
    assert output_of(sequence) == expected_output(sequence.request, 7)
    assert scheduler.ended == [sequence] and scheduler.pool.num_used == 0


def test_stop_tokens_and_invalid_logits_end_a_sequence():
    scheduler, runner = make()
    stopped = Sequence(Request("a", [1, 2], SamplingParams()), 10, frozenset({0, 1, 2, 3, 4}))
    ignoring = Sequence(
        Request("b", [1, 2], SamplingParams(ignore_eos=True)), 3, frozenset({0, 1, 2, 3, 4})
    )
    scheduler.add(stopped)
    scheduler.add(ignoring)
    step(scheduler, runner)
    assert stopped.finish_reason == "stop" and stopped.stop_token_id == stopped.token_ids[-1]
    output = scheduler.schedule()
    scheduler.update(output, [INVALID_TOKEN])
    assert ignoring.finish_reason == "error" and "not finite" in ignoring.error
    assert ignoring.num_output_tokens == 1
    assert scheduler.pool.num_used == 0


def test_ending_frees_blocks_at_once_wherever_the_sequence_is():
    scheduler, runner = make(num_blocks=8, max_num_seqs=1)
    scheduler.add(seq("running", [1] * 9))
    scheduler.add(seq("waiting", [1] * 9))
    step(scheduler, runner)
    scheduler.end("waiting", "abort")
    scheduler.end("running", "abort")
    scheduler.end("unknown", "abort")
    assert not scheduler.has_work and scheduler.pool.num_used == 0
    assert [s.finish_reason for s in scheduler.ended] == ["abort", "abort"]


def test_request_ids_are_unique_while_queued():
    scheduler, runner = make()
    scheduler.add(seq("a", [1]))
    with pytest.raises(ValueError, match="'a' is in use"):
        scheduler.add(seq("a", [2]))
    run_to_end(scheduler, runner)
    scheduler.add(seq("a", [2]))


# --- pinned caches ---


@pytest.mark.parametrize("slots", [1, 3, 4, 5, 8])
def test_pinned_full_blocks_are_shared_and_a_partial_one_is_copied(slots):
    scheduler, runner = make(num_blocks=32)
    pinned = runner.pin(scheduler, bytes([7]) * 32, slots, next_position=100)
    sequences = [seq(n, [i, 1, 2, 3, 4], 6, pinned) for i, n in enumerate("ab")]
    for sequence in sequences:
        scheduler.add(sequence)
    output = scheduler.schedule()
    full = slots // BLOCK
    for sequence in sequences:
        assert tuple(sequence.block_ids[:full]) == pinned.block_ids[:full]
        assert not set(sequence.block_ids[full:]) & set(pinned.block_ids)
    assert len(output.block_copies) == (2 if slots % BLOCK else 0)
    assert output.positions.tolist() == [*range(100, 105)] * 2
    assert output.seq_lens.tolist() == [slots + 5] * 2
    scheduler.update(output, runner.execute(output))
    run_to_end(scheduler, runner)
    for sequence in sequences:
        assert output_of(sequence) == expected_output(sequence.request, 6)
    assert scheduler.pool.num_used == len(pinned.block_ids)


@pytest.mark.parametrize("slots", [3, 4])
def test_prefix_hits_behind_a_pin_belong_to_that_pin(slots):
    scheduler, runner = make(num_blocks=64)
    one = runner.pin(scheduler, bytes([1]) * 32, slots, next_position=50)
    two = runner.pin(scheduler, bytes([2]) * 32, slots, next_position=50)
    tokens = list(range(10))
    hits = {}
    for name, pinned in (("a", one), ("b", one), ("c", two), ("d", None)):
        sequence = seq(name, tokens, 3, pinned)
        scheduler.add(sequence)
        run_to_end(scheduler, runner)
        assert output_of(sequence) == expected_output(sequence.request, 3)
        hits[name] = sequence.num_cached_tokens
    # slots 3: tokens 0, 1-4, 5-8 lie in full blocks; slots 4: tokens 0-3, 4-7.
    assert hits == {"a": 0, "b": 9 if slots == 3 else 8, "c": 0, "d": 0}


def test_unpinned_blocks_are_freed_after_the_last_request():
    scheduler, runner = make()
    pinned = runner.pin(scheduler, bytes(32), 5, next_position=9)
    freed = []
    assert not scheduler.pins.is_used(pinned)
    scheduler.add(seq("a", [1], 3, pinned))
    assert scheduler.pins.is_used(pinned)
    scheduler.pins.unpin(pinned, lambda: freed.append(True))
    with pytest.raises(ValueError, match="not pinned"):
        scheduler.add(seq("b", [1], 3, pinned))
    step(scheduler, runner)
    assert not freed and scheduler.pins.num_blocks == 2
    run_to_end(scheduler, runner)
    assert freed and scheduler.pool.num_used == 0 and scheduler.pins.num_blocks == 0
    assert not scheduler.pins.is_used(pinned)
    with pytest.raises(ValueError, match="not pinned"):
        scheduler.pins.unpin(pinned, lambda: None)


def test_the_same_content_is_pinned_once_and_counted():
    scheduler, runner = make()
    pinned = runner.pin(scheduler, bytes(32), 5, next_position=9)
    assert scheduler.pins.pin_again(bytes(32)) is pinned
    assert scheduler.pins.pin_again(bytes([1]) * 32) is None
    freed = []
    scheduler.pins.unpin(pinned, lambda: freed.append(1))
    assert freed == [1] and scheduler.pins.is_pinned(pinned)
    scheduler.pins.unpin(pinned, lambda: freed.append(2))
    assert freed == [1, 2] and scheduler.pool.num_used == 0


def test_a_pin_is_never_evicted_but_may_preempt():
    scheduler, runner = make(num_blocks=8, max_num_seqs=8, budget=64)
    sequences = [seq(n, [i] * 6, 4) for i, n in enumerate("abc")]
    for sequence in sequences:
        scheduler.add(sequence)
    step(scheduler, runner)
    assert scheduler.num_running == 3
    pinned = runner.pin(scheduler, bytes(32), 14, next_position=30)
    assert scheduler.num_running == 2 and scheduler.counters.preemptions == 1
    run_to_end(scheduler, runner)
    assert scheduler.ended == []
    behind = seq("d", [1, 2, 3], 3, pinned)
    scheduler.add(behind)
    run_to_end(scheduler, runner)
    for sequence in [*sequences, behind]:
        count = sequence.request.sampling.max_tokens
        assert output_of(sequence) == expected_output(sequence.request, count)


def test_a_pin_must_leave_room_for_what_is_queued():
    scheduler, runner = make(num_blocks=8)
    scheduler.add(seq("a", [1] * 20, 4))  # 6 blocks with its next token
    with pytest.raises(CacheFullError, match="a request needs 24 of them"):
        runner.pin(scheduler, bytes(32), 9, next_position=30)
    runner.pin(scheduler, bytes(32), 8, next_position=30)
    run_to_end(scheduler, runner)
    with pytest.raises(CacheFullError, match="has 24 for requests"):
        scheduler.add(seq("b", [1] * 25, 4))
    assert scheduler.ended == []


def test_reserved_blocks_make_sequences_wait_not_end():
    scheduler, runner = make(num_blocks=4)
    sequence = seq("a", [1] * 7, 6)
    scheduler.add(sequence)
    step(scheduler, runner)
    blocks = scheduler.reserve(2)
    while scheduler.num_running:
        step(scheduler, runner)
    assert step(scheduler, runner) == {} and scheduler.num_waiting == 1
    with pytest.raises(CacheFullError, match="at most 8 can be had"):
        scheduler.reserve(3)
    scheduler.release(blocks)
    run_to_end(scheduler, runner)
    assert output_of(sequence) == expected_output(sequence.request, 6)


def test_what_is_not_finite_is_not_found_again():
    """A block of NaN in the prefix cache would fail all who begin alike, as long as they come."""
    scheduler, runner = make(num_blocks=32, budget=8)
    tokens = [1, 2, 3, 4] * 5 + [1]
    scheduler.add(seq("sharing", tokens, max_tokens=40))
    while not scheduler._running or scheduler._running["sharing"].num_computed_tokens < len(tokens):
        step(scheduler, runner)
    scheduler.add(seq("poisoned", tokens))
    output = scheduler.schedule()
    poisoned = output.sequences[-1].sequence
    assert poisoned.num_cached_tokens == 20
    scheduler.update(output, [*runner.execute(output)[:-1], INVALID_TOKEN])
    assert poisoned.finish_reason == "error"
    scheduler.pool.check()
    scheduler.add(seq("next", tokens))
    step(scheduler, runner)
    assert scheduler._running["next"].num_cached_tokens == 0
    run_to_end(scheduler, runner)
    assert scheduler.pool.num_free == 32
    scheduler.pool.check()
