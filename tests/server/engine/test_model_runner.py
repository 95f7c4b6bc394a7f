"""The runner's logits against transformers' own eager forward, in fp32."""

import random
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.model_runner import ModelRunner
from gistserve.server.engine.scheduler_output import SchedulerOutput

from ...families import FAMILIES, VOCAB_SIZE, tiny_model

BLOCK_SIZE = 4
CONFIG = EngineConfig(num_blocks=96, block_size=BLOCK_SIZE)


@dataclass
class Seq:
    """A sequence as the scheduler would keep it, with blocks scattered over the pool."""

    token_ids: list[int]
    blocks: list[int]
    row: int
    cached: int = 0  # slots that a cache has filled
    offset: int = 0  # position - slot of its tokens
    done: int = 0
    logits: list[torch.Tensor] = field(default_factory=list)


def step(runner, parts):
    """Run ``(seq, count)`` parts as one packed batch; every row's logits go to its sequence."""
    starts, slots, positions, tokens = [0], [], [], []
    for seq, count in parts:
        new = range(seq.done, seq.done + count)
        tokens += [seq.token_ids[slot - seq.cached] for slot in new]
        positions += [slot + seq.offset for slot in new]
        slots += [seq.blocks[s // BLOCK_SIZE] * BLOCK_SIZE + s % BLOCK_SIZE for s in new]
        starts.append(starts[-1] + count)
    seq_lens = [seq.done + count for seq, count in parts]
    width = max(len(seq.blocks) for seq, _ in parts)
    output = SchedulerOutput(
        sequences=[SimpleNamespace(sequence=seq) for seq, _ in parts],
        token_ids=np.array(tokens, dtype=np.int64),
        positions=np.array(positions, dtype=np.int64),
        slot_mapping=np.array(slots, dtype=np.int64),
        query_start_loc=np.array(starts, dtype=np.int32),
        seq_lens=np.array(seq_lens, dtype=np.int32),
        block_table=np.array(
            [seq.blocks + [0] * (width - len(seq.blocks)) for seq, _ in parts], dtype=np.int32
        ),
        max_query_len=max(count for _, count in parts),
        max_seq_len=max(seq_lens),
        logits_indices=np.arange(len(tokens), dtype=np.int64),
        block_copies=[],
    )
    logits = runner.execute(output)
    for (seq, count), start in zip(parts, starts, strict=False):
        seq.logits.extend(logits[start : start + count])
        seq.done += count
    return output


def sequences(lengths, seed=0):
    """Random sequences; block 0 stays unused, as poison that padding may point at."""
    rng = random.Random(seed)
    free = list(range(1, CONFIG.num_blocks))
    rng.shuffle(free)
    return [
        Seq(
            [rng.randrange(3, VOCAB_SIZE) for _ in range(length)],
            [free.pop() for _ in range(-(-length // BLOCK_SIZE))],
            row,
        )
        for row, length in enumerate(lengths)
    ]


@torch.no_grad()
def eager_logits(model, seq):
    assert model.config._attn_implementation == "eager"
    return model(torch.tensor([seq.token_ids])).logits[0]


def assert_same(seq, expected):
    actual = torch.stack(seq.logits)
    assert (actual - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max().item())


@pytest.fixture(params=FAMILIES)
def model(request):
    return tiny_model(request.param)


@pytest.fixture
def runner(model):
    runner = ModelRunner(model, CONFIG)
    yield runner
    runner.close()


def check(model, schedule, lengths):
    """Run a schedule of steps, each a list of ``(sequence index, tokens)``, to its end."""
    seqs = sequences(lengths)
    expected = [eager_logits(model, seq) for seq in seqs]
    runner = ModelRunner(model, CONFIG)
    for parts in schedule:
        step(runner, [(seqs[index], count) for index, count in parts])
    runner.close()
    for seq, logits in zip(seqs, expected, strict=True):
        assert_same(seq, logits)


def test_alone(model):
    check(model, [[(0, 23)], *[[(0, 1)]] * 6], [29])


def test_packed_prompts(model):
    check(model, [[(0, 23), (1, 1), (2, 14), (3, 8)]], [23, 1, 14, 8])


def test_chunked_prefill_mixed_with_decode(model):
    schedule = [
        [(0, 11)],
        [(0, 1), (1, 7), (2, 3)],
        [(1, 13), (0, 1), (2, 1)],
        [(2, 2), (1, 1), (0, 1), (3, 1)],
        *[[(0, 1), (1, 1), (2, 1), (3, 1)]] * 3,
    ]
    check(model, schedule, [17, 24, 9, 4])


def test_logits_of_chosen_rows_only(model, runner):
    seqs = sequences([9, 6])
    output = step(runner, [(seqs[0], 9), (seqs[1], 6)])
    every = torch.stack([*seqs[0].logits, *seqs[1].logits])
    for rows in ([8, 14], [3, 4, 8], []):
        chosen = runner.execute(replace(output, logits_indices=np.array(rows, dtype=np.int64)))
        assert chosen.shape == (len(rows), VOCAB_SIZE)
        assert torch.allclose(chosen, every[rows], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_models_run_in_turn(dtype):
    models = [tiny_model(family).to(dtype) for family in ("llama", "gemma2")]
    seqs = [sequences([9])[0] for _ in models]
    expected = [eager_logits(model, seq) for model, seq in zip(models, seqs, strict=True)]
    runners = [ModelRunner(model, CONFIG) for model in models]
    for count in (6, 1, 2):
        for runner, seq in zip(runners, seqs, strict=True):
            step(runner, [(seq, count)])
    for seq, logits in zip(seqs, expected, strict=True):
        error = (torch.stack(seq.logits) - logits).float().norm() / logits.float().norm()
        assert error < (1e-6 if dtype == torch.float32 else 3e-2)


def test_block_copies_come_before_the_step():
    model = tiny_model("llama")
    first, second = sequences([10, 10])
    second.token_ids = first.token_ids
    expected = eager_logits(model, first)
    runner = ModelRunner(model, CONFIG)
    step(runner, [(first, 9)])
    runner.copy_blocks(list(zip(first.blocks, second.blocks, strict=True)))
    second.done = 9
    step(runner, [(second, 1)])
    assert torch.allclose(second.logits[0], expected[9], atol=1e-5)


def test_close_gives_the_model_back():
    model = tiny_model("gpt2").train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    runner = ModelRunner(model, CONFIG)
    with pytest.raises(RuntimeError, match="close the runner"):
        model(torch.tensor([[5, 6, 7]]))
    step(runner, [(sequences([5])[0], 5)])
    runner.close()
    assert model.training and model.config._attn_implementation == "eager"
    loss = model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss
    loss.backward()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_pool_sizes():
    model = tiny_model("deepseek_v3")
    per_slot = 3 * 4 * (24 + 16) * 4  # layers, heads, key and value size, bytes
    runner = ModelRunner(model, EngineConfig(kv_cache_memory=10 * 16 * per_slot + 5))
    assert (runner.bytes_per_slot, runner.num_blocks) == (per_slot, 10)
    runner.close()
    with pytest.raises(ValueError, match="kv_cache_memory"):
        ModelRunner(model, EngineConfig(kv_cache_memory=100))
    assert model.config._attn_implementation == "eager"
    runner = ModelRunner(model, EngineConfig(max_num_seqs=3, max_model_len=100))
    assert runner.num_blocks == 3 * 7  # all that could be used is less than memory allows


def test_positions_that_the_model_does_not_have():
    with pytest.raises(ValueError, match=r"257.*at most 256"):
        ModelRunner(tiny_model("llama"), EngineConfig(max_model_len=257))
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    rope["original_max_position_embeddings"] = 64
    model = tiny_model("llama", rope_parameters=rope)
    assert ModelRunner(model, EngineConfig(num_blocks=4)).max_model_len == 64


def test_cache_of_another_dtype_is_refused():
    with pytest.raises(ValueError, match=r"load the model in torch\.bfloat16"):
        ModelRunner(tiny_model("llama"), EngineConfig(num_blocks=4, dtype=torch.bfloat16))
