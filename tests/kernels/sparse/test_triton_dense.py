"""Sparse weights made dense by Triton are the masked weights, bit for bit."""

import pytest
import torch
from gistserve.kernels.sparse import BitmapWeight, SegmentedRows
from gistserve.kernels.sparse.bitmap_tiles import BitmapTiles

from .samples import DTYPES, balanced_mask, masked_weight
from .triton_cases import DEVICES, kernels_on

pytest.importorskip("triton")

from gistserve.kernels.sparse.triton_dense import bitmap_to_dense, segmented_to_dense


def assert_dense(
    weight: torch.Tensor, mask: torch.Tensor, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bitmap = BitmapWeight.from_dense(weight.to(device), mask.to(device))
    tiles, rows = BitmapTiles.from_bitmap(bitmap), SegmentedRows.from_bitmap(bitmap)
    with kernels_on(device, monkeypatch):
        from_bitmap, from_segments = bitmap_to_dense(tiles), segmented_to_dense(rows)
    expected = torch.where(mask, weight, 0).to(device)
    assert torch.equal(from_bitmap, expected)
    assert torch.equal(from_segments, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.95, 1.0])
def test_every_dtype_and_sparsity(dtype, sparsity, device, monkeypatch):
    assert_dense(*masked_weight(3, 300, sparsity, dtype), device, monkeypatch)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 1), (2, 8), (33, 64), (3, 65), (34, 256), (2, 600)])
def test_every_shape(shape, device, monkeypatch):
    assert_dense(*masked_weight(*shape, 0.7, torch.float16), device, monkeypatch)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [1, 8, 40, 256])
def test_balanced_segments(count, device, monkeypatch):
    weight, _ = masked_weight(3, 520, 0.0, torch.bfloat16)
    assert_dense(weight, balanced_mask(3, 520, count, min(count, 5)), device, monkeypatch)


@pytest.mark.parametrize("device", DEVICES)
def test_kept_zeros_and_values_that_are_no_numbers(device, monkeypatch):
    """A kept zero takes its place among the values; a kept infinity stays one."""
    weight, mask = masked_weight(4, 512, 0.6)
    mask[:, [0, 256]] = True
    weight[:, ::3] = 0
    weight[:, [1, 300]] = torch.inf
    assert_dense(weight, mask, device, monkeypatch)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(4096, 4096), (1000, 11008), (257, 2000)])
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_layers_of_real_sizes(shape, sparsity, monkeypatch):
    assert_dense(*masked_weight(*shape, sparsity, torch.bfloat16), "cuda", monkeypatch)
