"""2:4 weights as torch and compressed-tensors compress them."""

import numpy as np
import pytest
import torch
from gistserve.kernels.sparse import BitmapWeight, SparseFormatError, from_2_4, is_2_4
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

from .samples import DTYPES


def two_four(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(32, 16, 4, generator=generator).argsort(-1)[..., :2]
    mask = torch.zeros(32, 16, 4, dtype=torch.bool).scatter_(2, kept, True).view(32, 64)
    return torch.randn(32, 64, generator=generator).to(dtype), mask


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bitmask_is_read(dtype):
    weight, mask = two_four(dtype)
    bits = torch.from_numpy(np.packbits(mask.numpy(), axis=1, bitorder="little"))
    sparse = from_2_4(weight[mask].view(32, 32), bits)
    assert torch.equal(sparse.to_dense(), weight * mask)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cutlass_metadata_is_read(dtype):
    weight, mask = two_four(dtype)
    values, metadata = sparse_semi_structured_from_dense_cutlass(weight * mask)
    assert torch.equal(from_2_4(values, metadata).to_dense(), weight * mask)


def test_three_of_four_is_no_2_4():
    assert is_2_4(BitmapWeight.from_dense(torch.tensor([[1.0, 1, 0, 0, 0, 1, 0, 1]])))
    assert not is_2_4(BitmapWeight.from_dense(torch.tensor([[1.0, 1, 1, 0, 0, 0, 0, 1]])))
    bits = torch.tensor([[0b10000111]], dtype=torch.uint8)
    with pytest.raises(SparseFormatError, match="more than two"):
        from_2_4(torch.ones(1, 4), bits)


@pytest.mark.parametrize(
    ("values", "metadata", "message"),
    [
        (torch.ones(8), torch.ones(1, 2, dtype=torch.uint8), "must be a matrix"),
        (torch.ones(1, 8), torch.ones(1, 2), "metadata is torch.float32"),
        (torch.ones(1, 8), torch.ones(1, 3, dtype=torch.uint8), "bitmap is"),
        (torch.ones(1, 8), torch.full((1, 2), 3, dtype=torch.uint8), "corrupted"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(values, metadata, message):
    with pytest.raises(SparseFormatError, match=message):
        from_2_4(values, metadata)
