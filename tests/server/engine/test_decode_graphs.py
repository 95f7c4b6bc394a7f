"""Captured decode steps: what is captured, with which padding, and that tokens stay the same."""

import logging
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gistserve.server.engine import model_runner
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.decode_graphs import DecodeGraphs, batch_sizes
from gistserve.server.engine.decode_inputs import DecodeInputs, DecodeShape
from gistserve.server.engine.model_runner import ModelRunner
from gistserve.server.engine.request import Request
from gistserve.server.engine.scheduler_output import SchedulerOutput

from ...families import FAMILIES, tiny_model
from .engine_help import GREEDY, PROMPTS, Driver, generate_behind, random_cache, reference
from .replay import tape  # noqa: F401  # a fixture

CPU = torch.device("cpu")


def test_ladder():
    assert batch_sizes(1) == [1]
    assert batch_sizes(5) == [1, 2, 4, 5]
    assert batch_sizes(8) == [1, 2, 4, 8]
    assert batch_sizes(30) == [1, 2, 4, 8, 16, 24, 30]
    sizes = batch_sizes(2000)
    assert sizes == sorted(set(sizes)) and sizes[-1] == 512
    assert max(b - a for a, b in pairwise(sizes)) == 16


def decode_step(lengths, block_size=4, num_new=1):
    """A step of sequences with blocks of their own, 10 * row and up, slots = positions - 100."""
    count, width = len(lengths), -(-max(lengths) // block_size)
    table = 10 * np.arange(1, count + 1)[:, None] + np.arange(width)
    last = np.array(lengths) - 1
    return SchedulerOutput(
        sequences=[SimpleNamespace()] * count,
        token_ids=np.arange(count) + 50,
        positions=last + 100,
        slot_mapping=table[np.arange(count), last // block_size] * block_size + last % block_size,
        query_start_loc=np.arange(count + 1, dtype=np.int32),
        seq_lens=np.array(lengths, dtype=np.int32),
        block_table=table.astype(np.int32),
        max_query_len=num_new,
        max_seq_len=max(lengths),
        logits_indices=np.arange(count),
        block_copies=[],
    )


def test_inputs_of_a_padded_step():
    inputs = DecodeInputs(DecodeShape(6, max_blocks=5, block_size=4, scratch_block=9), CPU)
    inputs.fill(decode_step([17, 20, 3, 8, 1]), 6)  # what a smaller step later finds there
    inputs.fill(decode_step([9, 5]), 4)
    tokens, positions, metadata = inputs.rows(4)
    assert tokens.tolist() == [50, 51, 0, 0] and positions.tolist() == [108, 104, 0, 0]
    assert metadata.seq_lens.tolist() == [9, 5, 1, 1]
    assert metadata.slot_mapping.tolist() == [12 * 4, 21 * 4, 36, 36]
    assert metadata.query_start_loc.tolist() == [0, 1, 2, 3, 4]
    assert metadata.block_table[:, :3].tolist() == [[10, 11, 12], [20, 21, 22], [9] * 3, [9] * 3]
    assert metadata.block_table.shape == (4, 5)
    assert (metadata.max_query_len, metadata.max_seq_len) == (1, 20)


def test_inputs_stay_where_they_are():
    inputs = DecodeInputs(DecodeShape(4, max_blocks=5, block_size=4, scratch_block=9), CPU)

    def addresses():
        tokens, positions, metadata = inputs.rows(2)
        rest = (metadata.seq_lens, metadata.slot_mapping, metadata.block_table)
        return [t.data_ptr() for t in (tokens, positions, *rest, metadata.query_start_loc)]

    before = addresses()
    inputs.fill(decode_step([17, 20]), 2)
    assert addresses() == before
    assert all(address % 16 == 0 for address in before)


def test_inputs_before_the_first_step_are_all_scratch():
    inputs = DecodeInputs(DecodeShape(3, max_blocks=2, block_size=4, scratch_block=7), CPU)
    _, _, metadata = inputs.rows(3)
    assert metadata.seq_lens.tolist() == [1] * 3 and metadata.slot_mapping.tolist() == [28] * 3
    assert metadata.block_table.unique().tolist() == [7]


@pytest.mark.parametrize(("lengths", "size"), [([3, 3, 3], 2), ([21], 2)])
def test_a_step_that_was_not_captured_is_refused(lengths, size):
    inputs = DecodeInputs(DecodeShape(2, max_blocks=5, block_size=4, scratch_block=0), CPU)
    with pytest.raises(ValueError, match="was captured for at most 2 sequences and 5 blocks"):
        inputs.fill(decode_step(lengths), size)


def graphs_of(sizes, log):
    """Graphs of a forward that adds each row's length to its token."""
    inputs = DecodeInputs(DecodeShape(sizes[-1], max_blocks=5, block_size=4, scratch_block=0), CPU)

    def forward(tokens, positions, metadata):
        return (tokens + metadata.seq_lens)[:, None].float()

    def capture(run):
        run()
        log.append("captured")

        def replay():
            log.append(len(log))
            run()

        return replay

    return DecodeGraphs(forward, inputs, sizes, capture)


def test_a_step_replays_the_smallest_size_that_holds_it():
    log = []
    graphs = graphs_of([1, 2, 4, 8], log)
    assert log == ["captured"] * 4
    seen = []
    for size in graphs.sizes:
        replay = graphs._replay[size]
        graphs._replay[size] = lambda size=size, replay=replay: (seen.append(size), replay())
    for count in (1, 2, 3, 4, 5, 8):
        logits = graphs.run(decode_step([7] * count))
        assert logits[:, 0].tolist() == [57 + row for row in range(count)]
    assert seen == [1, 2, 4, 4, 8, 8]


def test_which_steps_are_taken():
    graphs = graphs_of([1, 4], [])
    step = decode_step([7, 3])
    assert graphs.takes(step)
    assert not graphs.takes(decode_step([7] * 5))
    assert not graphs.takes(decode_step([7, 3], num_new=2))
    silent = decode_step([7, 3])
    object.__setattr__(silent, "logits_indices", np.array([1]))  # one of them draws nothing
    assert not graphs.takes(silent)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_with_prefix_hits_preemptions_and_changing_batches(family, tape):  # noqa: F811
    driver = Driver(tiny_model(family), max_num_seqs=4, num_blocks=24, max_num_batched_tokens=23)
    assert driver.core.runner.captured_sizes == [4]
    for tag in ("", "-again"):  # the second time with prefix hits
        for name, tokens in PROMPTS.items():
            driver.add(Request(name + tag, tokens, GREEDY))
        while driver.core.has_work:
            driver.step()
            if driver.core.scheduler.num_running > 1 and driver.core.stats().num_steps % 9 == 0:
                driver.core.scheduler._preempt_newest()
        assert {name: driver.tokens(name + tag) for name in PROMPTS} == reference(family)
    assert driver.core.stats().num_preemptions and driver.core.stats().prefix_cache_hits
    assert tape.replays[0] == 0 and tape.replays[1] > 10
    driver.close()


def test_tokens_with_several_sizes(tape):  # noqa: F811
    driver = Driver(tiny_model("gemma2"), max_num_seqs=8)
    assert driver.core.runner.captured_sizes == [4, 8]
    lengths = dict(zip(PROMPTS, (3, 10, 6, 10, 10), strict=True))
    for name, tokens in PROMPTS.items():
        driver.add(Request(name, tokens, replace(GREEDY, max_tokens=lengths[name])))
    driver.run()
    for name, length in lengths.items():
        assert driver.tokens(name) == reference("gemma2")[name][:length]
    assert tape.replays == [0, 2, 7]  # of five sequences, then of four and fewer
    driver.close()


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "deepseek_v3"])
def test_padding_touches_the_scratch_block_alone(family, tape):  # noqa: F811
    model = tiny_model(family)
    runner = ModelRunner(model, EngineConfig(num_blocks=30, block_size=4, max_num_seqs=4))
    assert (runner.num_blocks, runner.pool.num_blocks) == (30, 31)
    for layer in runner.pool.layers:
        layer.key.fill_(7.0)
        layer.value.fill_(7.0)
    runner.execute(decode_step([5]))  # of blocks 10 and 11
    for layer in runner.pool.layers:
        for pages in (layer.key, layer.value):
            changed = (pages != 7.0).flatten(1).any(1).nonzero().flatten().tolist()
            assert changed == [11, 30]
    runner.close()


def test_gists_beside_ordinary_requests(tape):  # noqa: F811
    model = tiny_model("qwen3")
    cache = random_cache(model, 6, 91)
    expected = generate_behind(model, cache, PROMPTS["p17"])
    driver = Driver(model, max_num_seqs=4, max_num_batched_tokens=19)
    pinned = driver.core.pin(cache)
    for tag in ("", "-again"):
        driver.add(Request(f"gist{tag}", PROMPTS["p17"], GREEDY, pinned))
        for name in ("p3", "p34"):
            driver.add(Request(name + tag, PROMPTS[name], GREEDY))
        driver.run()
        assert driver.tokens(f"gist{tag}") == expected
        assert driver.tokens(f"p34{tag}") == reference("qwen3")["p34"]
    assert sum(tape.replays) > 15
    driver.close()


def test_eager_by_choice(tape, caplog):  # noqa: F811
    driver = Driver(tiny_model("llama"), max_num_seqs=4, enforce_eager=True)
    assert driver.core.runner.captured_sizes == [] and not tape.replays
    assert not caplog.records
    driver.close()


def explanations(caplog):
    return [record.message for record in caplog.records if "without CUDA graphs" in record.message]


def test_a_forward_that_waits_for_the_device_is_left_eager(tape, caplog):  # noqa: F811
    model = tiny_model("mixtral")
    model.set_experts_implementation("eager")  # a loop over the experts that were chosen
    with caplog.at_level(logging.WARNING):
        driver = Driver(model, max_num_seqs=4)
    (said,) = explanations(caplog)
    assert "MixtralForCausalLM" in said and "aten::nonzero" in said
    assert driver.core.runner.captured_sizes == [] and not tape.replays
    driver.add(Request("r", PROMPTS["p17"], GREEDY))
    driver.run()
    assert driver.tokens("r") == reference("mixtral")["p17"]
    driver.close()


@pytest.mark.parametrize("after", [0, 1])
def test_a_capture_that_fails_leaves_the_model_eager(after, monkeypatch, caplog):
    captured = []

    def capture(run):
        run()
        if len(captured) == after:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        captured.append(run)
        return run

    monkeypatch.setattr(model_runner, "capture_for", lambda device: lambda: capture)
    with caplog.at_level(logging.WARNING):
        driver = Driver(tiny_model("llama"), max_num_seqs=2)
    (said,) = explanations(caplog)
    assert said.endswith("operation not permitted when stream is capturing")
    driver.add(Request("r", PROMPTS["p17"], GREEDY))
    driver.run()
    assert driver.tokens("r") == reference("llama")["p17"]
    driver.close()
