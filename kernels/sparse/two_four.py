"""2:4 sparsity, two kept elements in four neighbours, read into bitmaps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.sparse._semi_structured_conversions import sparse_semi_structured_to_dense_cutlass

from .bitmap import BitmapWeight
from .bits import count_bits
from .errors import SparseFormatError


def is_2_4(weight: BitmapWeight) -> bool:
    """Whether no four neighbours, counted from column 0, keep more than two elements."""
    halves = torch.stack([weight.bitmap & 0x0F, weight.bitmap >> 4])
    return bool((count_bits(halves) <= 2).all())


def from_2_4(values: Tensor, metadata: Tensor) -> BitmapWeight:
    """Read a compressed 2:4 weight ``[N, K]`` whose kept ``values`` are ``[N, K / 2]``.

    Args:
        values: float32, float16 or bfloat16.
        metadata: uint8 ``[N, K / 8]``, bits of the kept elements, least significant first
            (compressed-tensors' ``sparse-24-bitmask``), or the int16 metadata of the CUTLASS
            layout that ``torch.sparse.to_sparse_semi_structured`` makes.

    Raises:
        SparseFormatError: the metadata fits no such layout or is not 2:4.
    """
    if values.dim() != 2:
        raise SparseFormatError(
            f"2:4 values must be a matrix [N, K / 2], but they are {list(values.shape)}"
        )
    if metadata.dtype == torch.uint8:
        weight = BitmapWeight((len(values), values.shape[1] * 2), metadata, values.flatten())
    elif metadata.dtype == torch.int16:
        weight = _from_cutlass(values, metadata)
    else:
        raise SparseFormatError(
            f"2:4 metadata is {metadata.dtype}; give a uint8 bitmask or CUTLASS's int16 metadata"
        )
    weight.check()
    if not is_2_4(weight):
        raise SparseFormatError("the weight keeps more than two elements of some four neighbours")
    return weight


def _from_cutlass(values: Tensor, metadata: Tensor) -> BitmapWeight:
    kept = sparse_semi_structured_to_dense_cutlass(torch.ones_like(values), metadata) != 0
    return BitmapWeight.from_dense(sparse_semi_structured_to_dense_cutlass(values, metadata), kept)
