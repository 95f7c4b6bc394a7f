"""The sparse product against float64: every format, around every threshold, and its errors."""

import pytest
import torch
from gistserve.kernels.sparse import (
    BitmapTiles,
    BitmapWeight,
    CsrWeight,
    DenseWeight,
    SegmentedRows,
    reference_sparse_linear,
    sparse_linear,
)

from .samples import DTYPES, balanced_mask, masked_weight

FORMATS = (DenseWeight, CsrWeight, SegmentedRows, BitmapTiles)
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def problem(
    batch: int, rows: int, columns: int, sparsity: float, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, BitmapWeight, torch.Tensor]:
    """x, weight and bias; one row of the weight is empty."""
    weight, mask = masked_weight(rows, columns, sparsity, dtype)
    mask[rows // 2] = False
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn(batch, columns, generator=generator).to(dtype)
    bias = torch.randn(rows, generator=generator).to(dtype)
    return x, BitmapWeight.from_dense(weight, mask), bias


def relative_error(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float((result.double() - expected).norm() / expected.norm().clamp(min=1e-30))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("runtime", FORMATS)
def test_every_format_and_batch_agrees_with_float64(runtime, dtype):
    for batch in (1, 2, 8, 9, 11, 12, 32, 33, 64, 65, 130):
        for rows, columns in ((1, 1), (7, 13), (33, 257), (64, 1000)):
            x, weight, bias = problem(batch, rows, columns, 0.8, dtype)
            converted = runtime.from_bitmap(weight)
            for offset in (None, bias):
                expected = reference_sparse_linear(x, weight, offset)
                result = sparse_linear(x, converted, offset)
                assert result.dtype == dtype
                assert result.is_contiguous()
                assert relative_error(result, expected) <= TOLERANCE[dtype], (batch, rows, columns)


def test_wide_weights_take_large_batches_in_more_parts():
    x, weight, bias = problem(70, 5, 4100, 0.8)
    result = sparse_linear(x, CsrWeight.from_bitmap(weight), bias)
    assert relative_error(result, reference_sparse_linear(x, weight, bias)) <= 1e-6


@pytest.mark.parametrize("runtime", FORMATS)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.99, 1.0])
def test_all_sparsities_agree_with_float64(runtime, sparsity):
    for batch in (1, 5, 20):
        x, weight, bias = problem(batch, 40, 300, sparsity)
        result = sparse_linear(x, runtime.from_bitmap(weight), bias)
        assert relative_error(result, reference_sparse_linear(x, weight, bias)) <= 1e-6


def test_balanced_rows_agree_with_float64():
    weight, _ = masked_weight(20, 600, 0.0)
    sparse = BitmapWeight.from_dense(weight, balanced_mask(20, 600, 26, 9))
    converted = SegmentedRows.from_bitmap(sparse)
    assert converted.is_balanced
    x = torch.randn(3, 600)
    assert relative_error(sparse_linear(x, converted), reference_sparse_linear(x, sparse)) <= 1e-6


@pytest.mark.parametrize("runtime", FORMATS)
@pytest.mark.parametrize("sizes", [(), (0,), (2, 0), (2, 3), (1, 1, 4)])
def test_any_leading_dimensions(runtime, sizes):
    _, weight, bias = problem(1, 24, 40, 0.8)
    x = torch.randn(*sizes, 40)
    result = sparse_linear(x, runtime.from_bitmap(weight), bias)
    assert result.shape == (*sizes, 24)
    expected = reference_sparse_linear(x, weight, bias)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("runtime", FORMATS)
def test_strided_vectors_are_read_as_they_are(runtime):
    _, weight, _ = problem(1, 24, 40, 0.8)
    x = torch.randn(40, 6).t()[::2]
    result = sparse_linear(x, runtime.from_bitmap(weight))
    assert relative_error(result, reference_sparse_linear(x, weight)) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("runtime", FORMATS)
def test_conversions_lose_nothing(runtime, dtype):
    _, weight, _ = problem(1, 24, 300, 0.8, dtype)
    back = runtime.from_bitmap(weight).to_bitmap()
    assert torch.equal(back.bitmap, weight.bitmap)
    assert torch.equal(back.values, weight.values)
    assert back.dtype == runtime.from_bitmap(weight).dtype == dtype


def test_bytes_of_the_runtime_formats():
    _, weight, _ = problem(1, 64, 1024, 0.9, torch.bfloat16)
    assert DenseWeight.from_bitmap(weight).num_bytes == 64 * 1024 * 2 + 64 * 128
    assert CsrWeight.from_bitmap(weight).num_bytes == weight.nnz * 8 + 65 * 4
    assert BitmapTiles.from_bitmap(weight).num_bytes == weight.num_bytes + 64 * 16 * 4


def test_the_reference_reads_bits_as_the_format_defines_them():
    weight = BitmapWeight(
        (2, 9),
        torch.tensor([[0b00000001, 0b1], [0b10000010, 0b0]], dtype=torch.uint8),
        torch.tensor([2.0, 3.0, 5.0, 7.0]),
    )
    x = torch.tensor([1.0, 10, 0, 0, 0, 0, 0, 100, 1000])
    assert reference_sparse_linear(x, weight).tolist() == [3002.0, 750.0]


@pytest.mark.parametrize("runtime", FORMATS)
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 41), r"x is torch.float32 \[2, 41\].* takes torch.float32 \[..., 40\]"),
        (torch.ones(2, 40, dtype=torch.bfloat16), "x is torch.bfloat16.* takes torch.float32"),
        (torch.ones(2, 40, device="meta"), "on meta, but .* on cpu"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(runtime, x, message):
    _, weight, _ = problem(1, 24, 40, 0.8)
    with pytest.raises(ValueError, match=message):
        sparse_linear(x, runtime.from_bitmap(weight))


@pytest.mark.parametrize(
    "bias", [torch.ones(23), torch.ones(24, dtype=torch.float64), torch.ones(24, device="meta")]
)
def test_biases_that_do_not_fit_are_refused(bias):
    _, weight, _ = problem(1, 24, 40, 0.8)
    with pytest.raises(ValueError, match="bias is"):
        sparse_linear(torch.ones(1, 40), CsrWeight.from_bitmap(weight), bias)


@pytest.mark.parametrize("runtime", FORMATS)
def test_a_gradient_is_refused(runtime):
    _, weight, _ = problem(1, 24, 40, 0.8)
    x = torch.ones(1, 40, requires_grad=True)
    with pytest.raises(RuntimeError, match="no gradients"):
        sparse_linear(x, runtime.from_bitmap(weight))
    with torch.no_grad():
        assert not sparse_linear(x, runtime.from_bitmap(weight)).requires_grad


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("runtime", [DenseWeight, SegmentedRows, BitmapTiles])
def test_cuda_agrees_with_float64_around_every_threshold(runtime, dtype):
    for batch in (1, 8, 9, 32, 33, 64, 65):
        for rows, columns in ((7, 13), (33, 257), (256, 1000)):
            x, weight, bias = problem(batch, rows, columns, 0.8, dtype)
            expected = reference_sparse_linear(x, weight, bias)
            moved = BitmapWeight(weight.shape, weight.bitmap.cuda(), weight.values.cuda())
            result = sparse_linear(x.cuda(), runtime.from_bitmap(moved), bias.cuda())
            assert result.dtype == dtype
            assert relative_error(result.cpu(), expected) <= TOLERANCE[dtype], (batch, rows)


@pytest.mark.gpu
def test_a_layer_on_cuda_is_refused_vectors_of_the_cpu():
    _, weight, _ = problem(1, 24, 40, 0.8)
    moved = BitmapWeight(weight.shape, weight.bitmap.cuda(), weight.values.cuda())
    with pytest.raises(ValueError, match=r"on cpu, but .* on cuda"):
        sparse_linear(torch.ones(1, 40), SegmentedRows.from_bitmap(moved))
