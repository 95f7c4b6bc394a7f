"""What is chosen, and that nothing is chosen that should lose to dense."""

import pytest
import torch
from gistserve.kernels.sparse import choose_format
from gistserve.kernels.sparse.choice import bitmap_cost, segmented_cost

LARGE = (4096, 4096)


def on_cuda(sparsity: float, shape: tuple[int, int] = LARGE, **options) -> str:
    options = {"dtype": torch.bfloat16} | options
    return choose_format(shape, sparsity, device_type="cuda", **options)


def on_cpu(sparsity: float, dtype: torch.dtype) -> str:
    return choose_format((576, 576), sparsity, device_type="cpu", dtype=dtype)


@pytest.mark.parametrize(
    ("dtype", "measured"), [(torch.float32, 0.8), (torch.bfloat16, 0.9), (torch.float16, 0.9)]
)
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="CSR needs MKL")
def test_the_cpu_takes_csr_where_it_was_measured_faster(dtype, measured):
    assert on_cpu(measured - 0.001, dtype) == "csr"  # pruning rounds
    assert on_cpu(1.0, dtype) == "csr"
    assert on_cpu(measured - 0.05, dtype) == "dense"


def test_the_cpu_stays_dense_without_mkl(monkeypatch):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert on_cpu(0.99, torch.float32) == "dense"


@pytest.mark.parametrize("sparsity", [0.7, 0.8, 0.9, 0.95, 1.0])
def test_cuda_takes_segmented_rows_for_few_vectors_and_bitmaps_for_more(sparsity):
    assert on_cuda(sparsity) == "segmented"
    assert on_cuda(sparsity, decode_batch=1) == "segmented"
    assert on_cuda(sparsity, decode_batch=9) == "bitmap"
    assert on_cuda(sparsity, decode_batch=64) == "bitmap"


def test_at_half_sparsity_the_batch_decides():
    assert on_cuda(0.5, decode_batch=1) == "segmented"
    assert on_cuda(0.5, decode_batch=8) == "bitmap"


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_cuda_stays_dense_where_batches_would_be_decompressed(sparsity):
    assert on_cuda(sparsity, decode_batch=65) == "dense"


def test_cuda_stays_dense_where_float32_would_miss_the_tensor_cores():
    assert on_cuda(0.9, decode_batch=8, dtype=torch.float32) == "segmented"
    assert on_cuda(0.9, decode_batch=16, dtype=torch.float32) == "dense"


@pytest.mark.parametrize("batch", [1, 8])
def test_no_predicted_time_is_below_that_of_the_bytes(batch):
    """Dense bfloat16 takes 2 bytes an element; at 80% a bitmap takes 0.53."""
    assert 0.15 < segmented_cost(0.9, 2, 1) < 0.2
    assert bitmap_cost(0.8, 2, batch) > 0.53 / 2
    assert segmented_cost(0.9, 2, batch) >= segmented_cost(0.9, 2, 1)


@pytest.mark.parametrize("decode_batch", [1, 8, 64])
def test_cuda_stays_dense_where_little_is_dropped_or_little_is_read(decode_batch):
    assert on_cuda(0.48, decode_batch=decode_batch) == "dense"
    assert on_cuda(0.0, decode_batch=decode_batch) == "dense"
    assert on_cuda(0.95, (576, 576), decode_batch=decode_batch) == "dense"


def test_other_devices_stay_dense():
    assert choose_format(LARGE, 0.9, device_type="mps", dtype=torch.float32) == "dense"


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, float("nan")])
def test_a_sparsity_that_is_no_share_is_refused(sparsity):
    with pytest.raises(ValueError, match="from 0 to 1"):
        on_cpu(sparsity, torch.float32)


def test_a_step_without_vectors_is_refused():
    with pytest.raises(ValueError, match="decode_batch"):
        on_cuda(0.9, decode_batch=0)
