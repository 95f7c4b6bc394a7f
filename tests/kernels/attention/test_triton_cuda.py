"""The Triton kernels on a GPU: the interpreter's cases, CUDA graphs, and the operator."""

import pytest
import torch
from gistserve.kernels.attention import paged_attention

from .steps import check, expect, make_step, relative_error
from .triton_cases import BF16, CASES, DECODE, MIXED

pytestmark = pytest.mark.gpu


def attend(step):
    return paged_attention(*step.tensors, step.metadata, **step.options)


@pytest.mark.parametrize("case", CASES)
def test_mixed_and_decode_batches(case):
    check(make_step(MIXED, **CASES[case]).to("cuda"), attend)
    step = make_step(DECODE, **CASES[case]).to("cuda")
    step.metadata.max_seq_len = 2048
    check(step, attend)


def test_long_contexts():
    lens = [(1, 32768), (1, 5), (1, 20000), (3, 9000), (300, 5000)]
    check(make_step(lens, (8, 2, 128, 128), block_size=16, dtype=BF16).to("cuda"), attend)


def copy_step(target, source):
    """New contents in the same memory, as a CUDA graph's inputs get."""
    for name in ("query", "key", "value", "key_cache", "value_cache"):
        getattr(target, name).copy_(getattr(source, name))
    for name in ("query_start_loc", "seq_lens", "slot_mapping"):
        getattr(target.metadata, name).copy_(getattr(source.metadata, name))
    table = source.metadata.block_table
    target.metadata.block_table[:, : table.shape[1]].copy_(table)


def capture(step):
    """A graph of one call, its output, and the step that it reads from."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        attend(step)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attend(step)
    return graph, out


@pytest.mark.parametrize(
    "batches",
    [
        [DECODE, [(1, 1), (1, 690), (0, 0), (1, 3), (1, 512), (1, 190), (1, 1)]],
        [MIXED, [(30, 30), (1, 1), (3, 3), (0, 0), (1, 300), (1, 77), (2, 250), (10, 10), (0, 6)]],
    ],
    ids=["decode", "mixed"],
)
@pytest.mark.parametrize("case", ["llama", "sinks, window"])
def test_captured_once_and_replayed_with_other_lengths(batches, case):
    steps = [make_step(lens, **CASES[case], seed=seed) for seed, lens in enumerate(batches)]
    assert steps[0].query.shape == steps[1].query.shape
    blocks = max(len(step.key_cache) for step in steps)
    for step in steps:
        for name in ("key_cache", "value_cache"):
            cache = getattr(step, name)
            spare = cache.new_full((blocks - len(cache), *cache.shape[1:]), torch.nan)
            setattr(step, name, torch.cat([cache, spare]))
    static = steps[0].to("cuda")
    static.metadata.block_table = torch.zeros(
        len(static.metadata.seq_lens), 128, dtype=torch.int32, device="cuda"
    )
    static.metadata.max_query_len = max(step.metadata.max_query_len for step in steps)
    static.metadata.max_seq_len = 2048
    copy_step(static, steps[0])
    graph, out = capture(static)

    def replay(step):
        copy_step(static, step)
        out.fill_(torch.nan)
        graph.replay()
        step.key_cache, step.value_cache = static.key_cache, static.value_cache
        return out

    for step in (steps[1], steps[0]):
        check(step, replay)


def test_registered_operator():
    step = make_step(MIXED, **CASES["sinks, window"]).to("cuda")
    operator = torch.ops.gistserve.paged_attention.default
    torch.library.opcheck(operator, step.operator_arguments())
    check(step, lambda step: operator(*step.operator_arguments()))


def test_one_call_waits_for_no_value():
    step = make_step(MIXED, **CASES["llama"]).to("cuda")
    attend(step)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = attend(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert relative_error(out, expect(step)[0]) < 1e-2


REFUSED = {
    "at most 256 elements": {"heads": (2, 1, 320, 320)},
    "takes bfloat16, float16 or float32": {"heads": (2, 1, 64, 64), "dtype": torch.float64},
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses_what_no_kernel_takes(message):
    with pytest.raises(ValueError, match=message):
        attend(make_step([(1, 4)], **REFUSED[message]).to("cuda"))


def test_refuses_metadata_elsewhere():
    step = make_step([(1, 4)], (2, 1, 64, 64)).to("cuda")
    step.metadata.block_table = step.metadata.block_table.cpu()
    with pytest.raises(ValueError, match="metadata must be on cuda"):
        attend(step)
