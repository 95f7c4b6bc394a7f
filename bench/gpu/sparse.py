"""Sparse linear layers against dense ones and torch's 2:4, by shape, sparsity and batch."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import linear

from ...kernels.sparse import (
    BitmapTiles,
    BitmapWeight,
    DenseWeight,
    RuntimeWeight,
    SegmentedRows,
    SparseLinear,
    sparse_linear,
)
from ...kernels.sparse.custom_ops import bitmap_matmul, bitmap_to_dense, segmented_matmul
from .bench import Bench, Prepared
from .device import BenchDevice
from .measurement import Case
from .sparse_weights import SparseWeights, exact_mask

SECTION = "sparse"
DENSE = "cublas"
LAYER = "layer"
"""As a model has it: in the format and by the path that it chooses itself for the batch."""

_TWO_FOUR = "torch 2:4"
_SHAPES = ((4096, 4096), (14_336, 4096), (4096, 11_008), (11_008, 4096))
_SPARSITIES = (0.9, 0.5, 0.7, 0.8)  # those of a standard first
_BATCHES = (1, 8, 4, 16, 32, 64)


def run(bench: Bench) -> None:
    """Time every arm on every case, the small batches first."""
    shelf: dict[tuple[tuple[int, int], float], SparseWeights] = {}
    for batch, sparsity, shape in _cases(bench.device):
        weights = shelf.setdefault((shape, sparsity), SparseWeights(bench.device, shape, sparsity))
        case: Case = {"shape": f"{shape[0]}x{shape[1]}", "sparsity": sparsity, "batch": batch}
        for arm in arms(bench.device, sparsity, batch):
            bench.measure(arm, case, partial(prepare, arm, weights, batch))


def arms(device: BenchDevice, sparsity: float, batch: int) -> list[str]:
    """What is worth measuring at a batch; 2:4 where it keeps as much."""
    found = [DENSE, LAYER, "bitmap"]
    if batch <= 32:  # beyond 8 in passes
        found.append("segmented")
    if batch == 1:
        found += ["segmented ragged", "segmented by 8"]
    if batch >= 16 or device.tiny:
        found.append("decompress")
    if sparsity == 0.5 and device.device.type == "cuda":
        found.append(_TWO_FOUR)
    return found


def prepare(arm: str, weights: SparseWeights, batch: int) -> Prepared:
    """Copies of the weight in the arm's format, and the product of each with one ``x``."""
    if arm == _TWO_FOUR:
        return _two_four(weights, batch)
    return rotated_product(weights, *_format(arm, weights, batch), batch)


def rotated_product(
    weights: SparseWeights,
    source: BitmapWeight,
    weight: RuntimeWeight,
    multiply: Callable[..., Tensor],
    batch: int,
) -> Prepared:
    """``multiply(x, weight, None)`` over copies of a weight that was made of ``source``."""
    x = weights.device.randn(batch, weights.shape[1])
    copies = weights.device.copies(weight.num_bytes)
    rotated = [weight, *(deepcopy(weight) for _ in range(copies - 1))]
    traffic = x.element_size() * batch * sum(weights.shape)
    return Prepared(
        [partial(multiply, x, one, None) for one in rotated],
        lambda: x.double() @ source.to_dense().double().t(),
        floor_bytes=float(_bytes_read(weight) + traffic),
        facts={
            "weight_bytes": weight.num_bytes,
            "times_smaller": weights.dense_bytes / weight.num_bytes,
            "sparsity": source.sparsity,
        },
    )


def _format(
    arm: str, weights: SparseWeights, batch: int
) -> tuple[BitmapWeight, RuntimeWeight, Callable[..., Tensor]]:
    """The weight as it was, as the arm holds it, and the arm's product."""
    sources = {"segmented ragged": "ragged", "segmented by 8": "grouped"}
    source: BitmapWeight = getattr(weights, sources.get(arm, "balanced"))
    if arm == LAYER:
        return source, SparseLinear.from_bitmap(source).prepare(batch), sparse_linear
    if arm == DENSE:
        return source, DenseWeight.from_bitmap(source), sparse_linear
    if arm in ("bitmap", "decompress"):
        multiply = bitmap_matmul if arm == "bitmap" else _decompress
        return source, BitmapTiles.from_bitmap(source), multiply
    return source, SegmentedRows.from_bitmap(source), segmented_matmul


def _decompress(x: Tensor, weight: BitmapTiles, bias: None) -> Tensor:
    return linear(x, bitmap_to_dense(weight), bias)


def _two_four(weights: SparseWeights, batch: int) -> Prepared:
    device = weights.device
    x = device.randn(batch, weights.shape[1])
    dense = device.randn(*weights.shape) * exact_mask(device, weights.shape, 4, 2)
    size = 9 / 16 * weights.dense_bytes  # half the values, and two bits for each of them
    rotated = [torch.sparse.to_sparse_semi_structured(dense) for _ in range(device.copies(size))]
    return Prepared(
        [partial(linear, x, one) for one in rotated],
        lambda: x.double() @ dense.double().t(),
        floor_bytes=size + x.element_size() * x.shape[0] * sum(weights.shape),
        facts={"weight_bytes": size},
    )


def _bytes_read(weight: RuntimeWeight) -> int:
    """Of a product; a dense weight's bitmap is not."""
    if isinstance(weight, DenseWeight):
        return weight.weight.numel() * weight.weight.element_size()
    return weight.num_bytes


def _cases(device: BenchDevice) -> list[tuple[int, float, tuple[int, int]]]:
    if device.tiny:
        return list(product((1, 16), (0.9, 0.5), ((24, 512),)))
    return list(product(_BATCHES, _SPARSITIES, _SHAPES))
