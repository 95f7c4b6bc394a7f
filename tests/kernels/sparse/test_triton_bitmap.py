"""The product of a small batch with a bitmap weight, against float64."""

import pytest
import torch
from gistserve.kernels.sparse import BitmapWeight
from gistserve.kernels.sparse.bitmap_tiles import BitmapTiles

from .samples import DTYPES, masked_weight
from .triton_cases import DEVICES, assert_product, kernels_on, shifted, vectors, views

pytest.importorskip("triton")

from gistserve.kernels.sparse import triton_bitmap
from gistserve.kernels.sparse.triton_bitmap import bitmap_matmul


def tiled(weight: torch.Tensor, mask: torch.Tensor, device: str = "cpu") -> BitmapTiles:
    return BitmapTiles.from_bitmap(BitmapWeight.from_dense(weight.to(device), mask.to(device)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 9, 16, 17, 40, 64])
def test_every_batch_and_dtype(batch, dtype, device, monkeypatch):
    weight, mask = masked_weight(5, 128, 0.5, dtype)
    tiles = tiled(weight, mask, device)
    x, bias = vectors(batch, 128, dtype, device), vectors(1, 5, dtype, device)[0]
    with kernels_on(device, monkeypatch):
        out = bitmap_matmul(x, tiles, bias)
    assert_product(out, x, (weight * mask).to(device), bias)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("columns", [3, 8, 63, 64, 65, 200])
@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_any_number_of_columns(columns, sparsity, device, monkeypatch):
    weight, mask = masked_weight(3, columns, sparsity, torch.float16)
    x = vectors(2, columns, torch.float16, device)
    with kernels_on(device, monkeypatch):
        out = bitmap_matmul(x, tiled(weight, mask, device))
    assert_product(out, x, (weight * mask).to(device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_rows", [1, 64, 67])
def test_rows_and_tiles_without_values(num_rows, device, monkeypatch):
    weight, mask = masked_weight(num_rows, 150, 0.8)
    mask[0] = False
    mask[-1, 64:128] = False
    x = vectors(3, 150, torch.float32, device)
    with kernels_on(device, monkeypatch):
        out = bitmap_matmul(x, tiled(weight, mask, device))
    assert_product(out, x, (weight * mask).to(device))


@pytest.mark.parametrize("device", DEVICES)
def test_a_weight_that_keeps_nothing(device, monkeypatch):
    tiles = tiled(torch.zeros(3, 40), torch.zeros(3, 40, dtype=torch.bool), device)
    bias = vectors(1, 3, torch.float32, device)[0]
    with kernels_on(device, monkeypatch):
        out = bitmap_matmul(vectors(2, 40, torch.float32, device), tiles, bias)
    torch.testing.assert_close(out, bias.expand(2, 3))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("splits", [1, 2, 3])
def test_splits_are_summed(splits, device, monkeypatch):
    weight, mask = masked_weight(5, 300, 0.6, torch.bfloat16)
    x, bias = vectors(4, 300, torch.bfloat16, device), vectors(1, 5, torch.bfloat16, device)[0]
    split_tiles = -(-5 // splits)
    monkeypatch.setattr(triton_bitmap, "bitmap_splits", lambda *_: (splits, split_tiles))
    with kernels_on(device, monkeypatch):
        out = bitmap_matmul(x, tiled(weight, mask, device), bias)
    assert_product(out, x, (weight * mask).to(device), bias)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("columns", [128, 100])
def test_views_into_larger_tensors(columns, device, monkeypatch):
    weight, mask = masked_weight(3, columns, 0.5, torch.float16)
    bitmap = BitmapWeight.from_dense(weight.to(device), mask.to(device))
    tiles = BitmapTiles.from_bitmap(
        BitmapWeight(bitmap.shape, shifted(bitmap.bitmap), shifted(bitmap.values))
    )
    for x in views(2, columns, torch.float16, device):
        with kernels_on(device, monkeypatch):
            out = bitmap_matmul(x, tiles)
        assert_product(out, x, (weight * mask).to(device))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batch", [9, 16, 33, 64])
@pytest.mark.parametrize("shape", [(4096, 4096), (1000, 11008), (14336, 4096), (257, 2000)])
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_layers_of_real_sizes(shape, batch, dtype, sparsity):
    weight, mask = masked_weight(*shape, sparsity, dtype)
    tiles = tiled(weight, mask, "cuda")
    x = vectors(batch, shape[1], dtype, "cuda")
    out = bitmap_matmul(x, tiles)
    assert_product(out, x, (weight * mask).cuda())
    assert torch.equal(out, bitmap_matmul(x, tiles))
