"""The operator against attention written as its definition, in float64."""

import itertools

import pytest
import torch
from gistserve.kernels.attention import AttentionMetadata, paged_attention

from .steps import check, make_step

# (new tokens, slots after the step) of each sequence
BATCHES = {
    "decode one": [(1, 9)],
    "decode first slot": [(1, 1), (1, 3)],
    "decode many": [(1, 17), (1, 4), (1, 33), (1, 16)],
    "prefill": [(13, 13)],
    "chunk": [(7, 30)],
    "mixed": [(1, 20), (5, 5), (1, 31), (8, 24), (1, 2)],
}
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


def attend(step):
    return paged_attention(*step.tensors, step.metadata, **step.options)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_matches_the_definition(batch, options, heads):
    check(make_step(BATCHES[batch], heads, **OPTIONS[options]), attend)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", OPTIONS)
def test_low_precision(dtype, options):
    for batch, heads in itertools.product(BATCHES.values(), [(4, 2, 16, 16), (4, 2, 24, 16)]):
        check(make_step(batch, heads, dtype=dtype, **OPTIONS[options]), attend)


@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_contiguous_pages_and_page_sizes(block_size):
    lens = [(1, 23)] if block_size == 1 else BATCHES["mixed"]
    for options in OPTIONS.values():
        step = make_step(lens, (4, 2, 16, 16), block_size=block_size, contiguous=True, **options)
        check(step, attend)


def test_long_prompt_and_unlike_lengths_are_tiled(monkeypatch):
    from gistserve.kernels.attention import plan

    monkeypatch.setattr(plan, "_QUERY_TILE", 5)
    monkeypatch.setattr(plan, "_MAX_GROUP_WASTE", 6)
    monkeypatch.setattr(plan, "_MAX_GROUP_SLOTS", 40)
    lens = [(1, 40), (13, 13), (1, 3), (1, 39), (12, 30), (1, 2), (1, 21)]
    for options in OPTIONS.values():
        step = make_step(lens, (4, 2, 16, 16), **options)
        check(step, attend)
    groups = [part for part in step.metadata.plan(4, 9).segments if part.num_queries == 1]
    assert len(groups) > 1


def test_one_metadata_serves_layers_of_different_windows():
    step = make_step(BATCHES["mixed"], (4, 2, 16, 16))
    for window in (None, 3, None, 7, 3):
        step.options["sliding_window"] = window
        check(step, attend)


@pytest.mark.parametrize("options", ["plain", "all"])
def test_registered_operator(options):
    step = make_step(BATCHES["mixed"], (4, 2, 24, 16), **OPTIONS[options])
    operator = torch.ops.gistserve.paged_attention.default
    torch.library.opcheck(operator, step.operator_arguments())
    check(step, lambda step: operator(*step.operator_arguments()))


def test_one_node_under_compile():
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    @torch.compile(backend=backend, fullgraph=True)
    def layer(query, key, value):
        out = paged_attention(query, key, value, *caches, step.metadata, scale=0.3)
        return out + 1

    step = make_step(BATCHES["decode many"], (4, 2, 16, 16))
    caches = step.tensors[3:]
    check(step, lambda step: layer(*step.tensors[:3]) - 1)
    calls = [node for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert [node for node in calls if "paged_attention" in str(node.target)]
    assert len(calls) == 2


def test_build_lays_out_what_a_step_needs():
    metadata = AttentionMetadata.build([1, 2], [3, 6], [[5], [2, 7, 9]], 4)
    assert metadata.query_start_loc.tolist() == [0, 1, 3]
    assert metadata.seq_lens.tolist() == [3, 6]
    assert metadata.block_table.tolist() == [[5, 0], [2, 7]]
    assert metadata.slot_mapping.tolist() == [22, 28, 29]
    assert (metadata.max_query_len, metadata.max_seq_len) == (2, 6)


def test_build_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="9 slots need 3 blocks of 4"):
        AttentionMetadata.build([1], [9], [[1, 2]], 4)
    with pytest.raises(ValueError, match="query length"):
        AttentionMetadata.build([0], [9], [[1, 2, 3]], 4)


def change(step, **tensors):
    for name, tensor in tensors.items():
        setattr(step, name, tensor)


REFUSED = {
    "must share dtype": lambda step: change(step, key=step.key.half()),
    "must share dtype and device.*meta": lambda step: change(step, key=step.key.to("meta")),
    "do not fit each other": lambda step: change(step, value=step.value[:, :1]),
    "Hq a multiple of Hkv": lambda step: change(step, query=step.query[:, :3]),
    "contiguous": lambda step: change(
        step, value_cache=step.value_cache.transpose(0, 1).contiguous().transpose(0, 1)
    ),
    "4 tokens, but slot_mapping has 3": lambda step: change(
        step.metadata, slot_mapping=step.metadata.slot_mapping[:3]
    ),
    "sliding_window must be at least 1": lambda step: step.options.update(sliding_window=0),
    "softcap must be positive": lambda step: step.options.update(softcap=0.0),
    "scale must be positive": lambda step: step.options.update(scale=-0.3),
    r"sinks must be \[4\]": lambda step: step.options.update(sinks=torch.zeros(2)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses_what_it_cannot_compute(message):
    step = make_step(BATCHES["decode many"], (4, 2, 16, 16))
    REFUSED[message](step)
    with pytest.raises(ValueError, match=message):
        attend(step)
