"""How the pool's memory follows from what was measured, and the step that is measured."""

import numpy as np
import pytest
import torch
from gistserve.server.engine import memory_profile, model_runner
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.device_memory import DeviceMemory, graph_bytes
from gistserve.server.engine.memory_profile import full_step
from gistserve.server.engine.model_runner import ModelRunner
from gistserve.server.engine.sampler import Sampler

from ...families import VOCAB_SIZE, tiny_model

GIB = 2**30


def test_what_is_left():
    memory = DeviceMemory(total=80 * GIB, in_use=17 * GIB, step=2 * GIB, graphs=GIB)
    assert memory.budget(0.9) == (72 - 17 - 2 - 1) * GIB
    assert memory.budget(0.5) == 20 * GIB


@pytest.mark.parametrize("in_use", [21, 30])
def test_nothing_is_left(in_use):
    memory = DeviceMemory(total=24 * GIB, in_use=in_use * GIB, step=GIB, graphs=GIB // 2)
    with pytest.raises(ValueError, match="no memory is left") as error:
        memory.budget(0.9)
    for part in ("90% of the device's 24.00 GiB", f"{in_use}.00 GiB are in use", "1.00", "0.50"):
        assert part in str(error.value)
    for remedy in ("max_num_batched_tokens", "gpu_memory_utilization", "kv_cache_memory"):
        assert remedy in str(error.value)


def test_graphs_share_what_the_largest_took():
    assert graph_bytes(500, 20, 11) == 500 + 10 * 20
    assert graph_bytes(500, 20, 1) == 500
    assert graph_bytes(500, -64, 11) == 500  # others freed memory meanwhile


def test_captures_are_measured_one_after_the_other(monkeypatch):
    in_use = iter([1000, 1700, 1720, 1720])
    monkeypatch.setattr(memory_profile, "_bytes_in_use", lambda device: next(in_use))
    seen = []

    def capture(progress):
        seen.extend(progress([16, 8]))

    device = torch.device("cuda")
    assert memory_profile._captured_bytes(device, capture) == (700, 20)
    assert seen == [16, 8]
    in_use = iter([1000, 1700])
    assert memory_profile._captured_bytes(device, lambda progress: [*progress([1])]) == (700, 0)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01])
def test_a_share_of_the_device_lies_between_none_and_all(share):
    with pytest.raises(ValueError, match="gpu_memory_utilization"):
        EngineConfig(gpu_memory_utilization=share)


@pytest.mark.parametrize(("num_seqs", "num_tokens"), [(4, 30), (64, 7), (2, 600)])
def test_the_largest_step(num_seqs, num_tokens):
    config = EngineConfig(
        max_num_seqs=num_seqs, max_num_batched_tokens=num_tokens, num_blocks=1, block_size=4
    )
    step = full_step(config, max_model_len=256)
    rows = min(num_seqs, num_tokens)
    counts = np.diff(step.query_start_loc)
    num_tokens = min(num_tokens, num_seqs * 256)
    assert counts.sum() == num_tokens and len(counts) == rows and counts.min() >= 1
    assert step.max_query_len == counts.max() == -(-num_tokens // rows)
    assert step.positions.max() == counts.max() - 1 < 256 and set(step.slot_mapping // 4) == {0}
    for row, share in enumerate(step.sequences):
        share.sequence.row = row  # for the CPU's dense rows
    runner = ModelRunner(tiny_model("llama"), config)
    logits = runner.execute(step)
    assert logits.shape == (rows, VOCAB_SIZE) and logits.isfinite().all()
    drawn = Sampler().sample(logits, [share.sequence for share in step.sequences])
    assert all(0 <= token < VOCAB_SIZE for token in drawn.token_ids)
    runner.close()


def as_if_on_cuda(monkeypatch, memory, asked):
    """Size the pool of the next runner by ``memory``, in place of a device's."""

    def measure(device, step, capture, num_graphs):
        step()
        asked.update(sizes=capture and capture(iter).sizes, num_graphs=num_graphs)
        return memory

    real = ModelRunner._num_blocks

    def num_blocks(self, *args):
        self._bound.device = torch.device("cuda")
        try:
            return real(self, *args)
        finally:
            self._bound.device = torch.device("cpu")

    monkeypatch.setattr(ModelRunner, "_num_blocks", num_blocks)
    monkeypatch.setattr(model_runner, "measure_memory", measure)
    monkeypatch.setattr(model_runner, "upload", lambda arrays, _: map(torch.from_numpy, arrays))


@pytest.mark.parametrize("graphs", [False, True])
def test_blocks_by_measured_memory(graphs, monkeypatch):
    per_block = 3 * 2 * 2 * 8 * 4 * 16  # layers, key and value, heads, size, bytes, slots
    memory = DeviceMemory(100 * per_block, in_use=30 * per_block, step=5 * per_block, graphs=0)
    asked = {}
    as_if_on_cuda(monkeypatch, memory, asked)
    if graphs:
        monkeypatch.setattr(model_runner, "capture_for", lambda device: lambda: lambda run: run)
    runner = ModelRunner(tiny_model("llama"), EngineConfig(max_num_seqs=30))
    assert runner.num_blocks == 90 - 35 - graphs  # one for the rows that pad a step
    assert runner.pool.num_blocks == 55
    assert asked["sizes"] == ([24, 30] if graphs else None)
    assert asked["num_graphs"] == (7 if graphs else 0)
    runner.close()


def test_weights_that_leave_nothing(monkeypatch):
    as_if_on_cuda(monkeypatch, DeviceMemory(10 * GIB, 9 * GIB, 0, 0), {})
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="no memory is left"):
        ModelRunner(model, EngineConfig())
    assert model.config._attn_implementation == "eager"
