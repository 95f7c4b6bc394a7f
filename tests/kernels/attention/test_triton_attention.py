"""The Triton kernels in the interpreter, against the definition in float64."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..interpreted import interpreted
from .steps import check, make_step
from .triton_cases import CASES, DECODE, MIXED

pytest.importorskip("triton")

from gistserve.kernels.attention import triton_path
from gistserve.kernels.attention.options import AttentionOptions
from gistserve.kernels.attention.tiles import Target, Tiles

# Few multiprocessors, so that some launches split and some do not.
HOPPER = Target(capability=90, num_multiprocessors=4, shared_memory=232448)


def attend(step, target=HOPPER):
    with interpreted():
        return triton_path.triton_paged_attention(
            *step.tensors, step.metadata, AttentionOptions(**step.options), target
        )


@pytest.fixture
def splits(monkeypatch):
    """How many splits each launch had."""
    counts = []
    for name in ("decode_splits", "prefill_splits"):
        choose = getattr(triton_path, name)
        monkeypatch.setattr(
            triton_path, name, lambda *a, f=choose: counts.append(f(*a)) or counts[-1]
        )
    return counts


@pytest.mark.parametrize("case", CASES)
def test_mixed_batches(case):
    check(make_step(MIXED, **CASES[case]), attend)


@pytest.mark.parametrize("case", CASES)
def test_decode_batches(case, splits):
    step = make_step(DECODE, **CASES[case])
    step.metadata.max_seq_len = 2048  # as in a CUDA graph: a bound, not the longest
    check(step, attend)
    assert "window" in case or "everything" in case or min(splits) > 1


def test_short_prompt_over_many_cached_slots_is_split(splits):
    step = make_step([(3, 900), (9, 9), (2, 400)], (2, 1, 32, 32), dtype=torch.bfloat16)
    check(step, lambda step: attend(step, Target(90, 16, 232448)))
    assert splits[0] > 1


def small_tiles(monkeypatch, min_tiles=1, splits=3):
    """Tiles so small that short sequences have many, and some splits in every launch."""
    tiles = Tiles(block_m=16, block_n=16, min_tiles=min_tiles, num_warps=4, num_stages=2)
    for name in ("decode_tiles", "prefill_tiles"):
        monkeypatch.setattr(triton_path, name, lambda *_, **__: tiles)
    for name in ("decode_splits", "prefill_splits"):
        monkeypatch.setattr(triton_path, name, lambda *_: splits)


@pytest.mark.parametrize("window", [1, 15, 16, 17, 33])
def test_slots_before_the_window_are_not_read(window, monkeypatch):
    small_tiles(monkeypatch)
    lens = [(1, 70), (1, 7), (9, 60)]
    step = make_step(lens, (2, 1, 16, 16), block_size=4, sliding_window=window)
    for seq, (count, seq_len) in enumerate(lens):
        hidden = torch.arange(max(seq_len - count + 1 - window, 0))
        pages = step.metadata.block_table[seq][hidden // 4].long()
        step.key_cache[pages, hidden % 4] = step.value_cache[pages, hidden % 4] = torch.nan
    check(step, attend)


def test_slots_after_a_tile_of_queries_are_not_read(monkeypatch):
    small_tiles(monkeypatch)
    step = make_step([(40, 60)], (1, 1, 16, 16), block_size=4)
    wanted = attend(step)[:32]
    step.key[32:] = step.value[32:] = torch.nan
    assert torch.equal(attend(step)[:32], wanted)


def test_more_splits_than_are_merged_at_once(monkeypatch):
    small_tiles(monkeypatch, splits=40)
    check(make_step([(1, 600), (1, 290), (3, 300)], (2, 1, 16, 16), scale=1.0), attend)


def test_weights_that_vanish_and_scores_that_grow(monkeypatch):
    small_tiles(monkeypatch)
    for factor in (1e-3, 1.0, 40.0):
        step = make_step([(1, 60), (6, 50)], (2, 1, 16, 16), scale=factor)
        check(step, attend)


@pytest.mark.parametrize("sink", [-torch.inf, -1e4, 0.0, 1e4])
def test_sinks_of_any_size(sink, monkeypatch):
    small_tiles(monkeypatch)
    step = make_step([(1, 60), (6, 50), (1, 3)], (4, 2, 32, 32), softcap=2.0)
    step.options["sinks"] = torch.tensor([sink, 0.5, sink, 1.0])
    check(step, attend)


def test_strided_inputs():
    step = make_step(MIXED, (4, 2, 32, 32), dtype=torch.float16, block_size=16)
    tokens = len(step.query)
    fused = torch.cat([t.reshape(tokens, -1) for t in step.tensors[:3]], 1)
    query, key, value = fused.split([128, 64, 64], 1)
    step.query, step.key = query.view(tokens, 4, 32), key.view(tokens, 2, 32)
    step.value = value.view(tokens, 2, 32).transpose(0, 2).contiguous().transpose(0, 2)
    assert step.query.stride() == (256, 32, 1) and step.value.stride(2) != 1
    check(step, attend)


def test_no_tokens():
    step = make_step([(0, 4), (0, 0)], (4, 2, 32, 32))
    assert attend(step).shape == (0, 4, 32)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_step(data, monkeypatch):
    draw = data.draw
    small_tiles(monkeypatch, min_tiles=draw(st.integers(1, 3)))
    lens = []
    for _ in range(draw(st.integers(1, 4))):
        seq_len = draw(st.integers(0, 70))
        longest = min(seq_len, 20) if draw(st.booleans()) else 1
        lens.append((draw(st.integers(0, longest)), seq_len))
    if not any(count and seq_len for count, seq_len in lens):
        lens.append((1, 1))
    kv_heads, group = draw(st.sampled_from([(1, 1), (1, 3), (1, 18), (2, 2), (2, 5)]))
    dim, value_dim = draw(st.tuples(*[st.sampled_from([16, 32, 40])] * 2))
    step = make_step(
        lens,
        (kv_heads * group, kv_heads, dim, value_dim),
        block_size=draw(st.sampled_from([1, 3, 4, 16, 32])),
        dtype=draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16])),
        seed=draw(st.integers(0, 99)),
        sliding_window=draw(st.one_of(st.none(), st.integers(1, 100))),
        softcap=draw(st.sampled_from([None, 2.0])),
        sinks=draw(st.booleans()) or None,
    )
    step.metadata.max_seq_len += draw(st.sampled_from([0, 1000]))
    check(step, attend)
