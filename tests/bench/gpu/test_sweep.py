"""Settings that are put in place of those chosen, and which of them are best."""

import math

import pytest
from gistserve.bench.gpu.sweep_table import overall, sweep_table
from gistserve.bench.gpu.variants import (
    CHOSEN,
    Variant,
    attention_variants,
    bitmap_variants,
    constant,
    segmented_variants,
)

from .samples import measured

VARIANTS = [*attention_variants(), *segmented_variants(), *bitmap_variants()]


@pytest.mark.parametrize("variants", [attention_variants(), segmented_variants()])
def test_names_tell_settings_apart(variants: list[Variant]) -> None:
    assert variants[0] == Variant(CHOSEN)
    assert len({variant.name for variant in variants}) == len(variants)


def test_every_setting_exists_and_is_put_back() -> None:
    """Fails when a kernel's module no longer has what a sweep changes."""
    pytest.importorskip("triton")
    from gistserve.kernels.sparse import triton_bitmap, triton_tiling

    before = (triton_tiling.ROWS, triton_bitmap.BITMAP_ROWS, triton_bitmap.multiprocessors)
    for variant in VARIANTS:
        with variant.applied():
            pass
    after = (triton_tiling.ROWS, triton_bitmap.BITMAP_ROWS, triton_bitmap.multiprocessors)
    assert before == after


def test_settings_reach_the_choice() -> None:
    pytest.importorskip("triton")
    from gistserve.kernels.attention import triton_path
    from gistserve.kernels.attention.tiles import Heads, Target
    from gistserve.kernels.sparse import triton_segmented

    def named(variants: list[Variant], name: str) -> Variant:
        return next(variant for variant in variants if variant.name == name)

    heads, target = Heads(8, 4, 64, 64, 2), Target(90, 132, 232_448)
    with named(attention_variants(), "16 KiB, 8 warps, 4 stages").applied():
        tiles = triton_path.decode_tiles(heads, target)
    assert (tiles.num_warps, tiles.num_stages, tiles.block_n) == (8, 4, 64)
    with named(segmented_variants(), "4 rows, 1 programs, 4 warps").applied():
        tiling = triton_segmented.segmented_tiling(
            4096, 16, 4.0, balanced=True, batch=1, num_multiprocessors=132
        )
    assert (tiling.rows, tiling.rows * tiling.lanes, tiling.num_warps) == (4, 128, 4)


def test_an_unknown_setting_is_an_error_and_the_others_are_put_back() -> None:
    module = "gistserve.bench.gpu.variants"
    wrong = Variant("w", (constant(module, "CHOSEN", "x"), constant(module, "no_such_name", 1)))
    with pytest.raises(AttributeError, match="no_such_name"), wrong.applied():
        pass
    from gistserve.bench.gpu import variants

    assert variants.CHOSEN == CHOSEN


def test_the_table_ranks_settings_by_their_gain() -> None:
    times = {"a": {CHOSEN: 8.0, "x": 4.0, "y": 1.0}, "b": {CHOSEN: 2.0, "x": 1.0}}
    assert overall(times) == [("x", math.sqrt(4.0)), (CHOSEN, 1.0)]
    measurements = [
        measured("sweep", arm, {"case": case}, ms)
        for case, arms in times.items()
        for arm, ms in arms.items()
    ]
    measurements.append(measured("sweep", "z", {"case": "b"}, None))
    lines = [" ".join(line.split()) for line in sweep_table(measurements).splitlines()]
    assert lines[1:4] == [
        "case a 8000.0 1.00x as chosen",
        "1000.0 8.00x y",
        "4000.0 2.00x x",
    ]
    assert lines[4:6] == ["case b 2000.0 1.00x as chosen", "1000.0 2.00x x"]
    assert lines[6].startswith("over all cases 2.00x x")


def test_without_the_chosen_settings_there_is_no_gain() -> None:
    assert overall({"a": {"x": 1.0}}) == []
    assert "?" in sweep_table([measured("sweep", "x", {"case": "a"}, 1.0)])
    assert overall({}) == []
