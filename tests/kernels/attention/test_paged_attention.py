"""The operator against attention written as its definition, in float64."""

import itertools
import random

import pytest
import torch
from gistserve.kernels.attention import (
    AttentionMetadata,
    paged_attention,
    reference_paged_attention,
)

NUM_BLOCKS = 64
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
# (new tokens, slots after the step) of each sequence
BATCHES = {
    "decode one": [(1, 9)],
    "decode first slot": [(1, 1), (1, 3)],
    "decode many": [(1, 17), (1, 4), (1, 33), (1, 16)],
    "prefill": [(13, 13)],
    "chunk": [(7, 30)],
    "mixed": [(1, 20), (5, 5), (1, 31), (8, 24), (1, 2)],
}


def make_step(lens, heads, *, block_size=4, dtype=torch.float32, contiguous=False, seed=0):
    """Random tensors, metadata over scattered pages, and NaN in every slot of no sequence."""
    query_heads, kv_heads, dim, value_dim = heads
    rng, gen = random.Random(seed), torch.Generator().manual_seed(seed)
    pages = list(range(1, NUM_BLOCKS))
    if not contiguous:
        rng.shuffle(pages)
    tables = [[pages.pop(0) for _ in range(-(-seq_len // block_size))] for _, seq_len in lens]
    metadata = AttentionMetadata.build(*zip(*lens, strict=True), tables, block_size)
    tokens = len(metadata.slot_mapping)

    def rand(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64).to(dtype)

    key_cache = rand(NUM_BLOCKS, block_size, kv_heads, dim)
    value_cache = rand(NUM_BLOCKS, block_size, kv_heads, value_dim)
    used = torch.zeros(NUM_BLOCKS, block_size, dtype=torch.bool)
    for table, (_, seq_len) in zip(tables, lens, strict=True):
        slots = torch.arange(seq_len)
        used[torch.tensor(table)[slots // block_size], slots % block_size] = True
    key_cache[~used] = value_cache[~used] = torch.nan
    query, key = rand(tokens, query_heads, dim), rand(tokens, kv_heads, dim)
    return (query, key, rand(tokens, kv_heads, value_dim), key_cache, value_cache, metadata)


def relative_error(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


def check(step, **options):
    *tensors, metadata = step
    oracle_tensors = [tensor.double() for tensor in tensors]
    expected = reference_paged_attention(*oracle_tensors, metadata, **options)
    actual = paged_attention(*tensors, metadata, **options)
    assert actual.shape == expected.shape and actual.dtype == tensors[0].dtype
    assert relative_error(actual, expected) < TOLERANCE[tensors[0].dtype]
    for cache, oracle in zip(tensors[3:], oracle_tensors[3:], strict=True):
        torch.testing.assert_close(cache.double(), oracle, rtol=0, atol=0, equal_nan=True)


HEADS = [
    (4, 2, 16, 16),
    (8, 1, 32, 32),
    (3, 3, 8, 8),
    (4, 2, 24, 16),
    (2, 1, 256, 256),
    (5, 5, 7, 3),
]
OPTIONS = {
    "plain": {},
    "window": {"sliding_window": 6},
    "window of one": {"sliding_window": 1},
    "wide window": {"sliding_window": 100},
    "softcap": {"softcap": 2.0},
    "sinks": {"sinks": True},
    "all": {"softcap": 3.0, "sliding_window": 9, "sinks": True},
}


def resolve(options, query_heads):
    options = {"scale": 0.3, **options}
    if options.get("sinks"):
        options["sinks"] = torch.linspace(-1, 2, query_heads)
    return options


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_matches_the_definition(batch, options, heads):
    check(make_step(BATCHES[batch], heads), **resolve(OPTIONS[options], heads[0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", OPTIONS)
def test_low_precision(dtype, options):
    for batch, heads in itertools.product(BATCHES.values(), [(4, 2, 16, 16), (4, 2, 24, 16)]):
        check(make_step(batch, heads, dtype=dtype), **resolve(OPTIONS[options], heads[0]))


@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_contiguous_pages_and_page_sizes(block_size):
    lens = [(1, 23)] if block_size == 1 else BATCHES["mixed"]
    for options in OPTIONS.values():
        step = make_step(lens, (4, 2, 16, 16), block_size=block_size, contiguous=True)
        check(step, **resolve(options, 4))


def test_long_prompt_and_unlike_lengths_are_tiled(monkeypatch):
    from gistserve.kernels.attention import plan

    monkeypatch.setattr(plan, "_QUERY_TILE", 5)
    monkeypatch.setattr(plan, "_MAX_GROUP_WASTE", 6)
    monkeypatch.setattr(plan, "_MAX_GROUP_SLOTS", 40)
    lens = [(1, 40), (13, 13), (1, 3), (1, 39), (12, 30), (1, 2), (1, 21)]
    for options in OPTIONS.values():
        step = make_step(lens, (4, 2, 16, 16))
        check(step, **resolve(options, 4))
    groups = [segment for segment in step[-1].plan(4, 9).segments if segment.num_queries == 1]
    assert len(groups) > 1


def test_one_metadata_serves_layers_of_different_windows():
    step = make_step(BATCHES["mixed"], (4, 2, 16, 16))
    for window in (None, 3, None, 7, 3):
        check(step, scale=1.0, sliding_window=window)


def test_registered_operator():
    query, key, value, key_cache, value_cache, metadata = make_step(
        BATCHES["mixed"], (4, 2, 24, 16)
    )
    tensors = (metadata.query_start_loc, metadata.seq_lens, metadata.block_table)
    args = (query, key, value, key_cache, value_cache, *tensors, metadata.slot_mapping)
    sizes = (metadata.max_query_len, metadata.max_seq_len)
    operator = torch.ops.gistserve.paged_attention.default
    torch.library.opcheck(
        operator,
        (*args, *sizes, 0.3, 5, None, None),
        test_utils=("test_schema", "test_faketensor"),
    )
    expected = paged_attention(*args[:5], metadata, scale=0.3, sliding_window=5)
    assert torch.equal(operator(*args, *sizes, 0.3, 5), expected)


def test_build_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="9 slots need 3 blocks of 4"):
        AttentionMetadata.build([1], [9], [[1, 2]], 4)
    with pytest.raises(ValueError, match="query length"):
        AttentionMetadata.build([0], [9], [[1, 2, 3]], 4)
