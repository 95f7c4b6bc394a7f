"""The engine's thread: streaming, cancelling, failing, compressing, stopping."""

import asyncio
import queue
import random
import threading
import time
from concurrent.futures import CancelledError

import pytest
import torch
from gistserve.compress.errors import GistCacheError
from gistserve.server.engine.delivery import LoopMailboxes, OutputInbox
from gistserve.server.engine.engine import Engine, EngineConfig
from gistserve.server.engine.errors import CacheFullError, EngineDeadError, PromptTooLongError
from gistserve.server.engine.request import Request, RequestOutput, SamplingParams

from ...families import VOCAB_SIZE, tiny_model
from .engine_help import (
    GREEDY,
    PROMPTS,
    generate_behind,
    make_adapter,
    prompt,
    random_cache,
    reference,
)

LONG = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
TIMEOUT = 60


@pytest.fixture
def make_engine():
    engines = []

    def make(model=None, adapter=None, fingerprint="", **config):
        settings = {"num_blocks": 128, "block_size": 4} | config
        engine = Engine(
            model or tiny_model("llama"), EngineConfig(**settings), adapter, fingerprint=fingerprint
        )
        engines.append(engine)
        engine.start()
        return engine

    yield make
    for engine in engines:
        engine.shutdown()


class Inbox:
    """Receives outputs of many requests on the test's thread."""

    def __init__(self):
        self._queue = queue.Queue()

    def __call__(self, output):
        self._queue.put(output)

    def get(self) -> RequestOutput:
        return self._queue.get(timeout=TIMEOUT)

    def until_finished(self, count=1) -> dict[str, list[RequestOutput]]:
        outputs: dict[str, list[RequestOutput]] = {}
        while count:
            output = self.get()
            outputs.setdefault(output.request_id, []).append(output)
            count -= output.finish_reason is not None
        return outputs


def tokens_of(outputs):
    return [token for output in outputs for token in output.new_token_ids]


def run_one(engine, request) -> list[RequestOutput]:
    inbox = Inbox()
    engine.submit(request, inbox)
    return inbox.until_finished()[request.request_id]


def wait_until(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def all_blocks_free(engine):
    return engine.stats().num_free_blocks == engine.stats().num_blocks


# --- outputs ---


def test_each_step_delivers_one_token_and_running_counts(make_engine):
    outputs = run_one(make_engine(), Request("a", PROMPTS["p17"], GREEDY))
    assert tokens_of(outputs) == reference("llama")["p17"]
    assert [o.num_output_tokens for o in outputs] == list(range(1, 11))
    assert [o.finish_reason for o in outputs] == [None] * 9 + ["length"]
    assert {o.num_prompt_tokens for o in outputs} == {17}


def test_an_end_token_stops_and_is_reported(make_engine):
    model = tiny_model("llama")
    wanted = reference("llama")["p17"]
    end = next(t for t in wanted if wanted.index(t) >= 2)
    model.generation_config.eos_token_id = [end, 96]
    engine = make_engine(model)
    for name, params in {
        "eos": SamplingParams(temperature=0, max_tokens=10),
        "stop": SamplingParams(
            temperature=0, max_tokens=10, ignore_eos=True, stop_token_ids=(end,)
        ),
    }.items():
        outputs = run_one(engine, Request(name, PROMPTS["p17"], params))
        assert tokens_of(outputs) == wanted[: wanted.index(end) + 1]
        assert (outputs[-1].finish_reason, outputs[-1].stop_token_id) == ("stop", end)
    ignoring = run_one(engine, Request("ignore", PROMPTS["p17"], GREEDY))
    assert tokens_of(ignoring) == wanted
    waiting = SamplingParams(temperature=0, max_tokens=10, min_tokens=8)
    outputs = run_one(engine, Request("min", PROMPTS["p17"], waiting))
    assert len(tokens_of(outputs)) >= 9 or outputs[-1].finish_reason == "length"
    assert not {end, 96} & set(tokens_of(outputs)[:8])


def test_logprobs_equal_a_direct_forward(make_engine):
    model = tiny_model("llama")
    tokens = PROMPTS["p34"]
    whole = torch.tensor([tokens + reference("llama")["p34"][:3]])
    expected = model(whole).logits[0].log_softmax(-1).detach()
    engine = make_engine(max_num_batched_tokens=11)
    params = SamplingParams(
        temperature=0, max_tokens=3, ignore_eos=True, logprobs=2, prompt_logprobs=1
    )
    # A prompt's log-probabilities need its tokens computed, cached or not.
    run_one(engine, Request("warm", tokens, GREEDY))
    noise = Inbox()
    engine.submit(Request("noise", PROMPTS["p52"], GREEDY), noise)
    outputs = run_one(engine, Request("a", tokens, params))
    assert outputs[0].num_cached_tokens == 0
    assert [o.prompt_logprobs is None for o in outputs] == [False, True, True]
    reported = outputs[0].prompt_logprobs
    assert reported[0] is None and len(reported) == len(tokens)
    for index, entry in enumerate(reported[1:]):
        row = expected[index]
        assert entry.token_id == tokens[index + 1]
        assert entry.logprob == pytest.approx(row[entry.token_id].item(), abs=1e-4)
        assert entry.top[0][0] == int(row.argmax())
    for step, output in enumerate(outputs):
        (entry,) = output.logprobs
        row = expected[len(tokens) - 1 + step]
        assert entry.logprob == pytest.approx(row.max().item(), abs=1e-4)
        assert [t for t, _ in entry.top] == row.topk(2).indices.tolist()


@pytest.mark.parametrize("length", [1, 17])
def test_no_tokens_but_the_prompts_logprobs(make_engine, length):
    params = SamplingParams(max_tokens=0, prompt_logprobs=0)
    (output,) = run_one(make_engine(), Request("a", PROMPTS[f"p{length}"], params))
    assert (output.new_token_ids, output.finish_reason) == ([], "length")
    assert len(output.prompt_logprobs) == length


def test_the_context_length_ends_a_request(make_engine):
    engine = make_engine(max_model_len=24)
    params = SamplingParams(temperature=0, ignore_eos=True)
    outputs = run_one(engine, Request("a", PROMPTS["p17"], params))
    assert len(tokens_of(outputs)) == 24 - 17 and outputs[-1].finish_reason == "length"
    assert tokens_of(outputs) == reference("llama")["p17"][:7]


def test_a_seed_repeats_whatever_else_runs(make_engine):
    engine = make_engine(max_num_batched_tokens=16, num_blocks=40)
    params = SamplingParams(temperature=1.5, top_p=0.9, seed=5, max_tokens=20, ignore_eos=True)
    alone = tokens_of(run_one(engine, Request("a", PROMPTS["p3"], params)))
    assert len(set(alone)) > 5
    inbox = Inbox()
    for i in range(6):
        other = SamplingParams(temperature=1.0, max_tokens=5 + 4 * i, ignore_eos=True)
        engine.submit(Request(f"other{i}", PROMPTS["p17"], other), inbox)
    engine.submit(Request("b", PROMPTS["p3"], params), inbox)
    outputs = inbox.until_finished(7)
    assert tokens_of(outputs["b"]) == alone


# --- cancelling ---


def test_abort_frees_blocks_and_reports(make_engine):
    engine = make_engine()
    inbox = Inbox()
    engine.submit(Request("a", PROMPTS["p17"], LONG), inbox)
    inbox.get()
    engine.abort("a")
    outputs = inbox.until_finished()["a"]
    assert outputs[-1].finish_reason == "abort" and outputs[-1].new_token_ids == []
    wait_until(lambda: all_blocks_free(engine))
    engine.abort("a")
    engine.abort("unknown")


def test_a_consumer_that_goes_away_aborts(make_engine):
    engine = make_engine()

    async def leave_after_two():
        stream = engine.generate(Request("a", PROMPTS["p17"], LONG))
        async for output in stream:
            if output.num_output_tokens == 2:
                break
        await stream.aclose()

    async def be_cancelled():
        async def consume():
            async for _ in engine.generate(Request("b", PROMPTS["p17"], LONG)):
                started.set()

        started = asyncio.Event()
        task = asyncio.create_task(consume())
        await started.wait()
        task.cancel()

    asyncio.run(leave_after_two())
    asyncio.run(be_cancelled())
    wait_until(lambda: engine.stats().finished["abort"] == 2)
    assert all_blocks_free(engine)


def test_an_event_loop_that_is_gone_harms_nobody(make_engine):
    engine = make_engine()

    async def submit_only():
        engine.submit_to(Request("lost", PROMPTS["p3"], GREEDY), OutputInbox())

    asyncio.run(submit_only())
    assert (
        tokens_of(run_one(engine, Request("a", PROMPTS["p17"], GREEDY)))
        == reference("llama")["p17"]
    )
    wait_until(lambda: all_blocks_free(engine))


def test_a_step_s_outputs_wake_a_loop_once():
    async def main():
        loop = asyncio.get_running_loop()
        mailboxes = LoopMailboxes()
        inboxes = [OutputInbox() for _ in range(3)]
        wakes = []
        wake = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *args: (wakes.append(args), wake(*args))
        for name, inbox in zip("abc", inboxes, strict=True):
            mailboxes.of(loop).post(inbox, RequestOutput(name, [1]))
        mailboxes.flush()
        mailboxes.flush()
        taken = [await inbox.take() for inbox in inboxes]
        assert [[o.request_id for o in outputs] for outputs in taken] == [["a"], ["b"], ["c"]]
        assert len(wakes) == 1

    asyncio.run(main())


# --- refusing ---


def test_what_cannot_be_served_is_refused_at_once(make_engine):
    engine = make_engine(max_model_len=100, num_blocks=10)
    inbox = Inbox()
    with pytest.raises(PromptTooLongError, match="maximum context length is 100 tokens"):
        engine.submit(Request("a", [5] * 100), inbox)
    with pytest.raises(CacheFullError, match="has 40 for requests"):
        engine.submit(Request("a", [5] * 41), inbox)
    with pytest.raises(ValueError, match=f"token id {VOCAB_SIZE} is outside"):
        engine.submit(Request("a", [5, VOCAB_SIZE]), inbox)
    with pytest.raises(ValueError, match="token id -1 is outside"):
        engine.submit(Request("a", [-1, 5]), inbox)
    with pytest.raises(ValueError, match="token id 99 is outside"):
        engine.submit(Request("a", [5], SamplingParams(logit_bias={99: 1.0})), inbox)
    engine.submit(Request("a", [5], LONG), inbox)
    with pytest.raises(ValueError, match="'a' is in use"):
        engine.submit(Request("a", [5]), inbox)
    with pytest.raises(ValueError, match="empty"):
        engine.compress([], "prefix")
    with pytest.raises(PromptTooLongError):
        engine.compress([5] * 100, "prefix")
    with pytest.raises(CacheFullError, match="can be had"):
        engine.compress([5] * 60, "prefix").result(TIMEOUT)


def test_an_engine_that_does_not_run_takes_nothing(make_engine):
    engine = Engine(tiny_model("llama"), EngineConfig(num_blocks=8))
    with pytest.raises(EngineDeadError, match="not been started"):
        engine.submit(Request("a", [5]), print)
    engine.shutdown()
    with pytest.raises(EngineDeadError, match="shutting down"):
        engine.compress([5], "prefix")
    with pytest.raises(RuntimeError, match="only once"):
        engine.start()


# --- failing ---


def test_a_failing_step_ends_its_requests_only(make_engine):
    engine = make_engine(max_num_seqs=1)
    execute = engine._core.runner.execute
    failures = iter([RuntimeError("out of luck")])

    def fail_once(output):
        if output.sequences[0].sequence.request_id == "a":
            raise next(failures)
        return execute(output)

    engine._core.runner.execute = fail_once
    inbox = Inbox()
    engine.submit(Request("a", PROMPTS["p17"], GREEDY), inbox)
    engine.submit(Request("b", PROMPTS["p17"], GREEDY), inbox)
    outputs = inbox.until_finished(2)
    assert outputs["a"][-1].finish_reason == "error"
    assert "out of luck" in outputs["a"][-1].error
    assert tokens_of(outputs["b"]) == reference("llama")["p17"]
    assert engine.is_running and all_blocks_free(engine)
    assert engine.stats().finished["error"] == 1


@pytest.mark.parametrize("stage", ["model", "sampler"])
def test_a_request_that_fails_alone_does_not_harm_those_it_ran_with(make_engine, stage):
    """Prefix copies, prompt log-probabilities and decodes in flight are computed again, once."""
    model = tiny_model("llama")
    engine = make_engine(max_num_seqs=8)
    core = engine._core
    gist = random_cache(model, slots=6, prompt_tokens=20)
    pinned = engine.pin(gist).result(TIMEOUT)
    bad = prompt(9, seed=4)
    execute, sample = core.runner.execute, core._sampler.sample
    failed = []

    def refuse(sequences):
        if any(s.request_id == "bad" for s in sequences):
            failed.append(len(sequences))
            raise RuntimeError("indigestible")

    def execute_or_fail(output):
        logits = execute(output)  # what it wrote is written again
        if stage == "model":
            refuse([share.sequence for share in output.sequences])
        return logits

    def sample_or_fail(logits, sequences):
        if stage == "sampler":
            refuse(sequences)
        return sample(logits, sequences)

    core.runner.execute, core._sampler.sample = execute_or_fail, sample_or_fail
    inbox = Inbox()
    scored = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True, prompt_logprobs=0)
    requests = [
        Request("plain", PROMPTS["p17"], GREEDY),
        Request("scored", PROMPTS["p34"], scored),
        Request("gist", PROMPTS["p3"], GREEDY, pinned),
        Request("bad", bad, GREEDY),
    ]
    with engine._wake:  # all in one step
        for request in requests:
            engine.submit(request, inbox)
    outputs = inbox.until_finished(4)
    assert failed == [4, 1]
    assert outputs["bad"][-1].finish_reason == "error"
    assert "indigestible" in outputs["bad"][-1].error
    assert tokens_of(outputs["plain"]) == reference("llama")["p17"]
    assert tokens_of(outputs["scored"]) == reference("llama")["p34"]
    assert len(outputs["scored"][0].prompt_logprobs) == 34
    assert tokens_of(outputs["gist"]) == generate_behind(model, gist, PROMPTS["p3"])
    engine.unpin(pinned).result(TIMEOUT)
    assert engine.is_running and all_blocks_free(engine)


def test_a_model_that_fails_on_anything_stops_the_engine(make_engine):
    engine = make_engine()

    def fail(output):
        raise RuntimeError("broken")

    engine._core.runner.execute = fail
    assert run_one(engine, Request("a", PROMPTS["p3"], GREEDY))[-1].finish_reason == "error"
    wait_until(lambda: not engine.is_running)
    with pytest.raises(EngineDeadError, match="broken"):
        engine.submit(Request("b", [5], GREEDY), Inbox())


def test_a_crash_fails_everyone_and_refuses_the_rest(make_engine):
    engine = make_engine()

    def crash(output, token_ids):
        raise AssertionError("books do not balance")

    engine._core.scheduler.update = crash
    inbox = Inbox()
    engine.submit(Request("a", PROMPTS["p3"], GREEDY), inbox)
    (output,) = inbox.until_finished()["a"]
    assert output.finish_reason == "error" and "books do not balance" in output.error
    wait_until(lambda: not engine.is_running)
    with pytest.raises(EngineDeadError, match="books do not balance"):
        engine.submit(Request("b", [5]), inbox)
    engine.shutdown()


def test_a_crash_fails_pending_futures(make_engine):
    model = tiny_model("llama")
    engine = make_engine(model)
    pinned = engine.pin(random_cache(tiny_model("llama"), 6, 20)).result(TIMEOUT)
    inbox = Inbox()
    engine.submit(Request("a", [5], LONG, pinned), inbox)
    inbox.get()
    freed = engine.unpin(pinned)
    engine._core.step = lambda: 1 / 0
    with pytest.raises(EngineDeadError, match="division by zero"):
        freed.result(TIMEOUT)
    assert inbox.until_finished()["a"][-1].finish_reason == "error"


def test_a_failing_consumer_loses_only_its_request(make_engine):
    engine = make_engine()
    inbox = Inbox()

    def broken(output):
        raise KeyError("consumer")

    engine.submit(Request("broken", PROMPTS["p3"], LONG), broken)
    engine.submit(Request("a", PROMPTS["p17"], GREEDY), inbox)
    assert tokens_of(inbox.until_finished()["a"]) == reference("llama")["p17"]
    wait_until(lambda: engine.stats().finished["abort"] == 1)
    assert all_blocks_free(engine)


# --- caches ---


def test_compress_pin_use_unpin(make_engine):
    plain = tiny_model("llama")
    adapter = make_adapter(plain)
    engine = make_engine(adapter=adapter, fingerprint="f1", compress_chunk_size=4)
    policy = prompt(23, seed=5)
    cache = engine.compress(policy, "gist").result(TIMEOUT)
    assert cache.manifest.model_fingerprint == "f1"
    pinned = engine.pin(cache).result(TIMEOUT)
    assert engine.pin(cache).result(TIMEOUT) is pinned
    assert (pinned.slots, pinned.next_position, pinned.num_gist_slots) == (5, 26, 5)
    assert engine.stats().num_pinned_blocks == 2
    outputs = run_one(engine, Request("a", PROMPTS["p17"], GREEDY, pinned))
    assert tokens_of(outputs) == generate_behind(plain, cache, PROMPTS["p17"])
    assert outputs[0].num_prompt_tokens == 23 + 17 and outputs[0].num_cached_tokens == 23
    assert engine.stats().gist_tokens_saved == 18
    engine.unpin(pinned).result(TIMEOUT)
    inbox = Inbox()
    engine.submit(Request("b", PROMPTS["p3"], LONG, pinned), inbox)
    inbox.get()
    freed = engine.unpin(pinned)
    inbox.get()
    assert engine.is_used(pinned) and not freed.done()
    engine.abort("b")
    freed.result(TIMEOUT)
    assert all_blocks_free(engine) and not engine.is_used(pinned)
    with pytest.raises(ValueError, match="not pinned"):
        engine.submit(Request("c", [5], GREEDY, pinned), inbox)
    with pytest.raises(ValueError, match="not pinned"):
        engine.unpin(pinned).result(TIMEOUT)


def test_caches_of_other_models_are_refused(make_engine):
    cache = random_cache(tiny_model("llama"), 4, 20)
    with pytest.raises(GistCacheError, match="model_fingerprint"):
        make_engine(fingerprint="other").pin(cache)
    engine = make_engine(tiny_model("llama", num_hidden_layers=2))
    with pytest.raises(ValueError, match="3 layers"):
        engine.pin(cache).result(TIMEOUT)
    assert all_blocks_free(engine)
    with pytest.raises(ValueError, match="sliding-window"):
        make_engine(tiny_model("gemma2")).pin(cache)


def test_a_cancelled_compression_stops_and_frees_its_blocks(make_engine):
    engine = make_engine(compress_chunk_size=1, num_blocks=64)
    future = engine.compress([5] * 200, "prefix")
    wait_until(lambda: engine.stats().num_free_blocks < 64)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(TIMEOUT)
    wait_until(lambda: all_blocks_free(engine))
    assert (
        tokens_of(run_one(engine, Request("a", PROMPTS["p3"], GREEDY))) == reference("llama")["p3"]
    )


def test_gist_without_adapter_fails_its_future_only(make_engine):
    engine = make_engine()
    with pytest.raises(Exception, match="no gist adapter"):
        engine.compress([5, 6], "gist").result(TIMEOUT)
    assert engine.is_running and all_blocks_free(engine)


# --- life ---


def test_an_idle_engine_sleeps(make_engine):
    engine = make_engine()
    run_one(engine, Request("a", PROMPTS["p3"], GREEDY))
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


def test_shutdown_drains_then_aborts(make_engine):
    engine = make_engine()
    inbox = Inbox()
    engine.submit(Request("a", PROMPTS["p17"], GREEDY), inbox)
    engine.shutdown(drain_seconds=TIMEOUT)
    assert tokens_of(inbox.until_finished()["a"]) == reference("llama")["p17"]

    engine = make_engine()
    engine.submit(Request("b", PROMPTS["p17"], LONG), inbox)
    inbox.get()
    compression = engine.compress([5] * 200, "prefix")
    engine.shutdown()
    assert inbox.until_finished()["b"][-1].finish_reason == "abort"
    with pytest.raises(EngineDeadError, match="shut"):
        compression.result(TIMEOUT)
    assert all_blocks_free(engine)
    with pytest.raises(EngineDeadError, match="shutting down"):
        engine.submit(Request("c", [5]), inbox)
    assert not any(t.name == "gistserve-engine" for t in threading.enumerate())


def test_the_model_is_given_back_as_it_was(make_engine):
    model = tiny_model("llama")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine = make_engine(model, make_adapter(model))
    pinned = engine.pin(engine.compress(prompt(20), "gist").result(TIMEOUT)).result(TIMEOUT)
    run_one(engine, Request("a", PROMPTS["p17"], GREEDY, pinned))
    engine.shutdown()
    assert all(torch.equal(weights[n], t) for n, t in model.state_dict().items())
    assert model.config._attn_implementation == "eager"


def test_five_hundred_requests_leave_every_block_in_the_pool(make_engine):
    """Random lengths, seeds, cancellations, pins and compressions on a pool that is too small."""
    rng = random.Random(3)
    model = tiny_model("llama", num_hidden_layers=1)
    adapter = make_adapter(model)
    engine = make_engine(
        model,
        adapter,
        num_blocks=40,
        max_num_seqs=12,
        max_num_batched_tokens=48,
        compress_chunk_size=8,
    )
    inbox, submitted, compressions = Inbox(), 0, []
    pins = [
        engine.pin(engine.compress(prompt(n), "gist").result(TIMEOUT)).result(TIMEOUT)
        for n in (10, 30)
    ]
    for i in range(500):
        params = SamplingParams(
            temperature=rng.choice([0, 1.0]),
            max_tokens=rng.randint(0, 16),
            seed=rng.choice([None, i]),
            prompt_logprobs=rng.choice([None, None, None, 1]),
            presence_penalty=rng.choice([0, 0, 0.5]),
        )
        pinned = rng.choice([None, *pins])
        tokens = prompt(60, seed=rng.randint(0, 1))[: rng.randint(1, 60)]
        engine.submit(Request(f"r{i}", tokens, params, pinned), inbox)
        submitted += 1
        if rng.random() < 0.3:
            engine.abort(f"r{rng.randint(0, i)}")
        if i % 50 == 25:
            compressions.append(engine.compress(prompt(40, seed=i), rng.choice(["gist", "prefix"])))
    outputs = inbox.until_finished(submitted)
    assert len(outputs) == 500
    stats = engine.stats()
    assert stats.finished["error"] == 0 and stats.finished["abort"] > 20
    assert stats.num_preemptions > 0 and stats.prefix_cache_hits > 0
    assert sum(stats.finished.values()) == 500
    for compression in compressions:
        assert compression.result(TIMEOUT).slots > 0
    assert engine.stats().num_free_blocks == 40 - stats.num_pinned_blocks
    for pinned in pins:
        engine.unpin(pinned).result(TIMEOUT)
    assert all_blocks_free(engine)
    engine._core.scheduler.pool.check()
