"""The product of a few vectors with segmented rows, against float64."""

import pytest
import torch
from gistserve.kernels.sparse import BitmapWeight, SegmentedRows

from .samples import DTYPES, balanced_mask, masked_weight
from .triton_cases import DEVICES, assert_product, kernels_on, shifted, vectors, views

pytest.importorskip("triton")

from gistserve.kernels.sparse.triton_segmented import launch_segmented, segmented_matvec
from gistserve.kernels.sparse.triton_tiling import SegmentedTiling


def segmented(weight: torch.Tensor, mask: torch.Tensor, device: str = "cpu") -> SegmentedRows:
    return SegmentedRows.from_bitmap(BitmapWeight.from_dense(weight.to(device), mask.to(device)))


def small_tiling(weight: SegmentedRows, **changes: int) -> SegmentedTiling:
    """Two rows by eight lanes, a segment a tile, one split, and ``changes``."""
    sizes = {
        "rows": 2,
        "lanes": 8,
        "steps": 1,
        "tile_segments": 1,
        "splits": 1,
        "split_segments": weight.segments,
        "num_warps": 1,
    }
    return SegmentedTiling(**{**sizes, **changes}, exact=False)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", range(1, 9))
def test_every_batch_and_dtype(batch, dtype, device, monkeypatch):
    weight, _ = masked_weight(5, 300, 0.0, dtype)
    # Even batches balanced, odd ones ragged.
    mask = balanced_mask(5, 300, 20, 3) if batch % 2 == 0 else torch.rand(5, 300) < 0.2
    rows = segmented(weight, mask, device)
    assert rows.is_balanced == (batch % 2 == 0)
    x, bias = vectors(batch, 300, dtype, device), vectors(1, 5, dtype, device)[0]
    with kernels_on(device, monkeypatch):
        out = segmented_matvec(x, rows, bias)
    assert_product(out, x, (weight * mask).to(device), bias)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("columns", [3, 8, 256, 257, 1100])
@pytest.mark.parametrize("balanced", [True, False])
def test_any_number_of_columns(columns, balanced, device, monkeypatch):
    weight, mask = masked_weight(3, columns, 0.6, torch.float16)
    if balanced:
        mask = balanced_mask(3, columns, min(columns, 33), min(columns % 256, 2))
    rows = segmented(weight, mask, device)
    x = vectors(2, columns, torch.float16, device)
    with kernels_on(device, monkeypatch):
        out = segmented_matvec(x, rows)
    assert_product(out, x, (weight * mask).to(device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_rows", [1, 4, 5])
def test_rows_and_segments_without_entries(num_rows, device, monkeypatch):
    weight, mask = masked_weight(num_rows, 700, 0.7)
    mask[0] = False
    mask[-1, 256:512] = False
    rows = segmented(weight, mask, device)
    x = vectors(3, 700, torch.float32, device)
    with kernels_on(device, monkeypatch):
        out = segmented_matvec(x, rows)
    assert_product(out, x, (weight * mask).to(device))


@pytest.mark.parametrize("device", DEVICES)
def test_a_weight_that_keeps_nothing(device, monkeypatch):
    rows = segmented(torch.zeros(3, 40), torch.zeros(3, 40, dtype=torch.bool), device)
    bias = vectors(1, 3, torch.float32, device)[0]
    with kernels_on(device, monkeypatch):
        out = segmented_matvec(vectors(2, 40, torch.float32, device), rows, bias)
    torch.testing.assert_close(out, bias.expand(2, 3))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 3, "tile_segments": 4},
        {"steps": 5, "tile_segments": 5},
        {"steps": 2, "tile_segments": 2, "splits": 3, "split_segments": 2},
        {"steps": 3, "tile_segments": 3, "splits": 2, "split_segments": 3, "rows": 4},
    ],
)
def test_tiles_steps_and_splits(changes, balanced, device, monkeypatch):
    weight, mask = masked_weight(7, 1200, 0.85, torch.bfloat16)
    if balanced:
        mask = balanced_mask(7, 1200, 40, 17)
    rows = segmented(weight, mask, device)
    x = vectors(2, 1200, torch.bfloat16, device)
    bias = vectors(1, 7, torch.bfloat16, device)[0]
    with kernels_on(device, monkeypatch):
        out = launch_segmented(x, rows, bias, small_tiling(rows, **changes))
    assert_product(out, x, (weight * mask).to(device), bias)


@pytest.mark.parametrize("device", DEVICES)
def test_a_ragged_row_longer_than_one_pass(device, monkeypatch):
    weight, mask = masked_weight(3, 512, 0.95)
    mask[1] = True
    rows = segmented(weight, mask, device)
    x = vectors(1, 512, torch.float32, device)
    with kernels_on(device, monkeypatch):
        out = launch_segmented(x, rows, None, small_tiling(rows, tile_segments=2))
    assert_product(out, x, (weight * mask).to(device))


@pytest.mark.parametrize("device", DEVICES)
def test_an_exact_tiling_needs_no_mask(device, monkeypatch):
    weight, _ = masked_weight(4, 1024, 0.0)
    rows = segmented(weight, mask := balanced_mask(4, 1024, 32, 0), device)
    tiling = SegmentedTiling(2, 8, 1, 2, 2, 2, exact=True, num_warps=1)
    x = vectors(1, 1024, torch.float32, device)
    with kernels_on(device, monkeypatch):
        out = launch_segmented(x, rows, None, tiling)
    assert_product(out, x, (weight * mask).to(device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", [1, 3])
def test_views_into_larger_tensors(batch, device, monkeypatch):
    weight, mask = masked_weight(3, 300, 0.5, torch.float16)
    rows = segmented(weight, mask, device)
    rows = SegmentedRows(
        rows.shape, shifted(rows.columns), shifted(rows.values), rows.offsets, rows.count
    )
    for x in views(batch, 300, torch.float16, device):
        with kernels_on(device, monkeypatch):
            out = segmented_matvec(x, rows)
        assert_product(out, x, (weight * mask).to(device))


@pytest.mark.parametrize("device", DEVICES)
def test_one_vector_for_the_whole_batch(device, monkeypatch):
    weight, mask = masked_weight(3, 300, 0.5, torch.float16)
    x = vectors(1, 300, torch.float16, device).expand(2, -1)
    with kernels_on(device, monkeypatch):
        out = segmented_matvec(x, segmented(weight, mask, device))
    assert_product(out, x, (weight * mask).to(device))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("shape", [(4096, 4096), (1000, 11008), (14336, 4096), (256, 2048)])
@pytest.mark.parametrize("balanced", [True, False])
def test_layers_of_real_sizes(shape, batch, dtype, balanced):
    weight, mask = masked_weight(*shape, 0.9, dtype)
    if balanced:
        mask = balanced_mask(*shape, 24, 24)
    rows = segmented(weight, mask, "cuda")
    x = vectors(batch, shape[1], dtype, "cuda")
    out = segmented_matvec(x, rows)
    assert_product(out, x, (weight * mask).cuda())
    assert torch.equal(out, segmented_matvec(x, rows))
