"""Bitmaps: what is written is read back, and what is malformed is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from gistserve.kernels.sparse import BitmapWeight, SparseFormatError
from hypothesis import given, settings
from hypothesis import strategies as st

from .samples import masked_weight, masked_weights


@settings(deadline=None)
@given(masked_weights())
def test_round_trip_keeps_exactly_what_the_mask_keeps(sample):
    weight, mask = sample
    sparse = BitmapWeight.from_dense(weight, mask)
    sparse.check()
    assert torch.equal(sparse.mask(), mask)
    assert torch.equal(sparse.to_dense(), weight * mask)
    assert sparse.to_dense().dtype == weight.dtype
    assert sparse.nnz == int(mask.sum())
    assert torch.equal(sparse.row_counts(), mask.sum(1, dtype=torch.int32))


@settings(deadline=None)
@given(masked_weights())
def test_bits_lie_as_numpy_packs_them(sample):
    weight, mask = sample
    sparse = BitmapWeight.from_dense(weight, mask)
    expected = np.packbits(mask.numpy(), axis=1, bitorder="little")
    assert np.array_equal(sparse.bitmap.numpy(), expected)
    assert torch.equal(sparse.values, weight[mask])


@settings(deadline=None)
@given(masked_weights(), st.sampled_from([8, 16, 64, 256]))
def test_tile_offsets_point_at_the_first_value_of_each_tile(sample, tile):
    weight, mask = sample
    offsets = BitmapWeight.from_dense(weight, mask).tile_offsets(tile)
    before = np.concatenate([[0], np.cumsum(mask.numpy().flatten())[:-1]]).reshape(mask.shape)
    assert offsets.dtype == torch.int32
    assert np.array_equal(offsets.numpy(), before[:, ::tile])


def test_without_a_mask_zeros_are_dropped():
    weight = torch.tensor([[0.0, 2.0, -0.0], [0.0, 0.0, float("nan")]])
    sparse = BitmapWeight.from_dense(weight)
    assert sparse.bitmap.tolist() == [[0b010], [0b100]]
    assert sparse.nnz == 2
    assert sparse.sparsity == pytest.approx(4 / 6)


def test_bytes_are_those_of_the_format():
    weight, _ = masked_weight(64, 1000, 0.0, torch.bfloat16)
    mask = (torch.arange(64_000) % 10 == 0).view(64, 1000)
    assert BitmapWeight.from_dense(weight, mask).num_bytes == 64 * 125 + 6_400 * 2


@pytest.mark.parametrize("tile", [0, -8, 12])
def test_tiles_that_cut_a_byte_are_refused(tile):
    sparse = BitmapWeight.from_dense(torch.ones(2, 32))
    with pytest.raises(ValueError, match="multiple of 8"):
        sparse.tile_offsets(tile)


@settings(deadline=None)
@given(masked_weights(), st.data())
def test_a_flipped_bit_is_noticed(sample, data):
    weight, mask = sample
    sparse = BitmapWeight.from_dense(weight, mask)
    flipped = sparse.bitmap.clone()
    row = data.draw(st.integers(0, flipped.shape[0] - 1))
    byte = data.draw(st.integers(0, flipped.shape[1] - 1))
    flipped[row, byte] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SparseFormatError, match="corrupted bitmap"):
        dataclasses.replace(sparse, bitmap=flipped).check()


def test_a_stray_bit_is_noticed_though_the_count_agrees():
    sparse = BitmapWeight.from_dense(torch.tensor([[1.0, 0.0, 1.0]]))
    moved = torch.tensor([[0b1001]], dtype=torch.uint8)
    with pytest.raises(SparseFormatError, match="past column 3"):
        dataclasses.replace(sparse, bitmap=moved).check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bitmap": torch.zeros(2, 2, dtype=torch.uint8)}, r"bitmap is .* \[2, 2\]"),
        ({"bitmap": torch.zeros(2, 1, dtype=torch.int8)}, "bitmap is torch.int8"),
        ({"values": torch.zeros(3, dtype=torch.float64)}, "values are torch.float64"),
        ({"values": torch.zeros(1, 3)}, r"values are .* \[1, 3\]"),
        ({"values": torch.zeros(3, device="meta")}, "move both to one device"),
        ({"shape": (3, 8)}, r"\[3, 8\]"),
        ({"shape": (2, 0)}, "rows and columns"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    sparse = BitmapWeight.from_dense(torch.ones(2, 5))
    with pytest.raises(SparseFormatError, match=message):
        dataclasses.replace(sparse, **changes)


@pytest.mark.parametrize(
    ("weight", "mask", "message"),
    [
        (torch.ones(4), None, "must be a matrix"),
        (torch.ones(2, 2, dtype=torch.int8), None, "torch.int8"),
        (torch.ones(2, 2), torch.ones(2, 3, dtype=torch.bool), r"\[2, 3\]"),
        (torch.ones(2, 2), torch.ones(2, 2), "mask is torch.float32"),
    ],
)
def test_what_is_no_weight_is_refused(weight, mask, message):
    with pytest.raises(SparseFormatError, match=message):
        BitmapWeight.from_dense(weight, mask)
