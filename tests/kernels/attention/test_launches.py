"""What is launched hangs on shapes and bounds alone: tensors without contents suffice."""

import pytest

pytest.importorskip("triton")

from .launches import TARGETS, launches

HEADS = (32, 8, 128, 128)


def kernels(**step):
    recorded = launches(HEADS, TARGETS[90], **step)
    names = [launch.kernel.fn.__name__.removesuffix("_kernel") for launch in recorded]
    return names, recorded


def one_query(recorded):
    return [
        launch.arguments["ONE_QUERY"]
        for launch in recorded
        if launch.kernel.fn.__name__ == "attention_kernel"
    ]


def test_decode_step_splits_and_merges():
    names, recorded = kernels(tokens=8, num_seqs=8)
    assert names == ["write", "attention", "merge"]
    assert one_query(recorded) == [True]
    assert recorded[1].grid == (8, 17, 8)
    assert recorded[1].arguments["part_ptr"].shape == (8, 32, 17, 128)
    assert recorded[2].grid == (8, 32)


def test_one_split_needs_no_merge_and_no_memory():
    for step in ({"tokens": 256, "num_seqs": 256}, {"max_seq_len": 64}):
        names, recorded = kernels(**step)
        assert names == ["write", "attention"]
        assert recorded[1].arguments["part_ptr"].numel() == 0


def test_window_bounds_the_splits():
    _, recorded = kernels(tokens=1, num_seqs=1, sliding_window=256)
    assert recorded[1].grid == (8, 2, 1)


def test_prompts_alone_have_one_launch():
    for step in (
        {"tokens": 512, "num_seqs": 1, "max_query_len": 512},
        {"tokens": 2048, "num_seqs": 4, "max_query_len": 512},
    ):
        names, recorded = kernels(max_seq_len=2048, **step)
        assert names == ["write", "attention"]
        assert one_query(recorded) == [False]


def test_mixed_batch_has_a_launch_of_each_kind():
    names, recorded = kernels(tokens=2048 + 7, num_seqs=8, max_query_len=2048)
    assert names == ["write", "attention", "attention", "merge"]
    assert one_query(recorded) == [False, True]
    # 32 queries of 4 heads in a tile of 128 rows.
    assert recorded[1].grid == ((2048 + 7) // 32 + 8, 8, 1)


def test_short_prompt_over_a_long_prefix_fills_the_chip():
    _, recorded = kernels(tokens=20, num_seqs=1, max_query_len=20)
    blocks, heads, splits = recorded[1].grid
    assert (blocks, heads) == (1, 8) and blocks * heads * splits == 128


def test_steps_of_any_size_share_their_compiled_kernels():
    def variants(**steps):
        seen = set()
        for tokens, longest in steps["sizes"]:
            step = {"tokens": tokens, "num_seqs": steps.get("num_seqs", tokens)}
            _, recorded = kernels(max_seq_len=longest, max_query_len=steps["queries"], **step)
            launch = recorded[1]
            params = {p.name: p for p in launch.kernel.params}
            specialised = {
                name: value if params[name].is_constexpr else value % 16 == 0
                for name, value in launch.arguments.items()
                if name in params and isinstance(value, int) and not params[name].do_not_specialize
            }
            seen.add(tuple(sorted(specialised.items())))
        return seen

    assert len(variants(sizes=[(1, 100), (16, 4096), (33, 32768), (256, 17)], queries=1)) == 1
    assert len(variants(sizes=[(20, 99), (2048, 32768)], queries=20, num_seqs=1)) == 1


def test_nothing_is_launched_for_no_tokens():
    names, _ = kernels(tokens=0, num_seqs=0, max_query_len=0)
    assert names == []
