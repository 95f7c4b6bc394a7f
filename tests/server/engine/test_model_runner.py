"""The runner's logits against transformers' own eager forward, in fp32."""

import random
from dataclasses import dataclass, field, replace

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
        sequences=[],
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
        )
        for length in lengths
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
