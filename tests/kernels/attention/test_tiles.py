"""Tile sizes and split counts, as plain arithmetic."""

import itertools
from dataclasses import replace

import pytest
from gistserve.kernels.attention.tiles import (
    Heads,
    Target,
    Tiles,
    decode_splits,
    decode_tiles,
    padded,
    prefill_splits,
    prefill_tiles,
    shared_bytes,
)

H200 = Target(capability=90, num_multiprocessors=132, shared_memory=232448)
TARGETS = [
    Target(75, 40, 65536),
    Target(80, 108, 166912),
    Target(86, 84, 101376),
    H200,
    Target(100, 148, 232448),
    Target(120, 170, 101376),
]
DIMS = [(32, 32), (64, 64), (80, 80), (96, 96), (128, 128), (192, 128), (128, 192), (256, 256)]


def every_shape():
    for target, (key, value), group, size in itertools.product(
        TARGETS, DIMS, (1, 3, 8, 64, 71), (2, 4)
    ):
        yield target, Heads(2, group, key, value, size)


def test_every_choice_can_be_launched():
    for target, heads in every_shape():
        chosen = [prefill_tiles(heads, target, plain=plain) for plain in (True, False)]
        for tiles in [decode_tiles(heads, target), *chosen]:
            assert tiles.block_m >= 16 and tiles.block_m & (tiles.block_m - 1) == 0
            assert tiles.block_n >= 16 and tiles.block_n & (tiles.block_n - 1) == 0
            assert shared_bytes(tiles, heads, target) <= target.shared_memory
            assert 1 <= tiles.block_h(heads.group) <= heads.group
            assert 1 <= tiles.block_q(heads.group) * tiles.block_h(heads.group) <= tiles.block_m


def test_decoding_fits_twice_and_keeps_a_tile_on_its_way():
    for target, heads in every_shape():
        tiles = decode_tiles(heads, target)
        if tiles.block_n > 16:  # there is no smaller one
            assert 2 * (shared_bytes(tiles, heads, target) + 1024) <= target.shared_memory
            assert tiles.num_stages >= 3


def test_rows_of_a_decode_tile_are_not_wasted():
    rows = {group: decode_tiles(Heads(1, group, 64, 64, 2), H200).block_m for group in (1, 16, 17)}
    assert rows == {1: 16, 16: 16, 17: 32}


def test_columns_are_powers_of_two():
    assert [padded(dim) for dim in (7, 16, 17, 64, 80, 128, 192)] == [16, 16, 32, 64, 128, 128, 256]


TILES = Tiles(block_m=16, block_n=64, min_tiles=2, num_warps=4, num_stages=3)


@pytest.mark.parametrize("programs", [1, 8, 64, 500, 1056, 5000])
def test_decode_fills_the_chip_as_far_as_there_are_slots(programs):
    splits = decode_splits(programs, 32768, TILES, H200)
    if programs >= 8 * 132:
        assert splits == 1
    else:
        assert programs * splits >= 8 * 132 or splits == 32768 // 128
    assert decode_splits(programs, 100, TILES, H200) == 1
    assert decode_splits(programs, 0, TILES, H200) == 1


def test_splits_have_at_least_their_tiles():
    assert decode_splits(1, 129, TILES, H200) == 2
    assert decode_splits(1, 129, replace(TILES, min_tiles=4), H200) == 1


def test_prefill_is_split_only_where_multiprocessors_would_idle():
    assert prefill_splits(132, 32768, TILES, H200) == 1
    assert prefill_splits(67, 32768, TILES, H200) == 1
    assert prefill_splits(24, 32768, TILES, H200) == 5
    assert prefill_splits(24, 256, TILES, H200) == 2
