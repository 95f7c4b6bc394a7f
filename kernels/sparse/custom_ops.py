"""The sparse products as ``torch.library`` operators, each one node of a captured graph.

CUDA's formats run in Triton kernels, imported when they are first needed because Triton exists
only on Linux. On the CPU they are decompressed, so that what uses them works there too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

from .bitmap import BitmapWeight
from .bitmap_tiles import BitmapTiles
from .csr import CsrWeight
from .segmented_rows import SegmentedRows

torch.library.define(
    "gistserve::csr_matmul",
    "(Tensor x, Tensor row_starts, Tensor columns, Tensor values, Tensor? bias=None) -> Tensor",
)
torch.library.define(
    "gistserve::segmented_matmul",
    "(Tensor x, Tensor columns, Tensor values, Tensor? offsets, int? count, int out_features, "
    "Tensor? bias=None) -> Tensor",
)
torch.library.define(
    "gistserve::segmented_to_dense",
    "(Tensor columns, Tensor values, Tensor? offsets, int? count, int out_features, "
    "int in_features) -> Tensor",
)
torch.library.define(
    "gistserve::bitmap_matmul",
    "(Tensor x, Tensor bitmap, Tensor values, Tensor tile_offsets, Tensor? bias=None) -> Tensor",
)
torch.library.define(
    "gistserve::bitmap_to_dense",
    "(Tensor bitmap, Tensor values, Tensor tile_offsets, int in_features) -> Tensor",
)


@torch.library.impl("gistserve::csr_matmul", "CPU")
def _csr_matmul(
    x: Tensor, row_starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None = None
) -> Tensor:
    shape = (row_starts.numel() - 1, x.shape[1])
    return CsrWeight(shape, row_starts, columns, values, x.dtype).linear(x, bias)


@torch.library.impl("gistserve::segmented_matmul", "CPU")
def _segmented_matmul(
    x: Tensor,
    columns: Tensor,
    values: Tensor,
    offsets: Tensor | None,
    count: int | None,
    out_features: int,
    bias: Tensor | None = None,
) -> Tensor:
    weight = SegmentedRows((out_features, x.shape[1]), columns, values, offsets, count)
    return linear(x, weight.to_dense(), bias)


@torch.library.impl("gistserve::segmented_to_dense", "CPU")
def _segmented_to_dense(
    columns: Tensor,
    values: Tensor,
    offsets: Tensor | None,
    count: int | None,
    out_features: int,
    in_features: int,
) -> Tensor:
    return SegmentedRows((out_features, in_features), columns, values, offsets, count).to_dense()


@torch.library.impl("gistserve::bitmap_matmul", "CPU")
def _bitmap_matmul(
    x: Tensor, bitmap: Tensor, values: Tensor, tile_offsets: Tensor, bias: Tensor | None = None
) -> Tensor:
    weight = BitmapWeight((bitmap.shape[0], x.shape[1]), bitmap, values)
    return linear(x, weight.to_dense(), bias)


@torch.library.impl("gistserve::bitmap_to_dense", "CPU")
def _bitmap_to_dense(
    bitmap: Tensor, values: Tensor, tile_offsets: Tensor, in_features: int
) -> Tensor:
    return BitmapWeight((bitmap.shape[0], in_features), bitmap, values).to_dense()


@torch.library.impl("gistserve::segmented_matmul", "CUDA")
def _segmented_matmul_cuda(
    x: Tensor,
    columns: Tensor,
    values: Tensor,
    offsets: Tensor | None,
    count: int | None,
    out_features: int,
    bias: Tensor | None = None,
) -> Tensor:
    from .triton_segmented import MAX_BATCH, segmented_matvec

    weight = SegmentedRows((out_features, x.shape[1]), columns, values, offsets, count)
    with torch.cuda.device_of(x):  # Triton launches on the current device, wherever tensors lie
        return in_passes(lambda part: segmented_matvec(part, weight, bias), x, MAX_BATCH)


@torch.library.impl("gistserve::segmented_to_dense", "CUDA")
def _segmented_to_dense_cuda(
    columns: Tensor,
    values: Tensor,
    offsets: Tensor | None,
    count: int | None,
    out_features: int,
    in_features: int,
) -> Tensor:
    from .triton_dense import segmented_to_dense

    shape = (out_features, in_features)
    with torch.cuda.device_of(values):
        return segmented_to_dense(SegmentedRows(shape, columns, values, offsets, count))


@torch.library.impl("gistserve::bitmap_matmul", "CUDA")
def _bitmap_matmul_cuda(
    x: Tensor, bitmap: Tensor, values: Tensor, tile_offsets: Tensor, bias: Tensor | None = None
) -> Tensor:
    from .triton_bitmap import MAX_BATCH, bitmap_matmul

    weight = BitmapWeight((bitmap.shape[0], x.shape[1]), bitmap, values)
    tiles = BitmapTiles(weight, tile_offsets)
    with torch.cuda.device_of(x):
        return in_passes(lambda part: bitmap_matmul(part, tiles, bias), x, MAX_BATCH)


@torch.library.impl("gistserve::bitmap_to_dense", "CUDA")
def _bitmap_to_dense_cuda(
    bitmap: Tensor, values: Tensor, tile_offsets: Tensor, in_features: int
) -> Tensor:
    from .triton_dense import bitmap_to_dense

    weight = BitmapWeight((bitmap.shape[0], in_features), bitmap, values)
    with torch.cuda.device_of(values):
        return bitmap_to_dense(BitmapTiles(weight, tile_offsets))


def in_passes(multiply: Callable[[Tensor], Tensor], x: Tensor, largest: int) -> Tensor:
    """``multiply`` of ``x`` ``[B, K]``, at most ``largest`` rows at a time."""
    if len(x) <= largest:
        return multiply(x)
    return torch.cat([multiply(part) for part in x.split(largest)])


@torch.library.register_fake("gistserve::csr_matmul")
def _fake_csr_matmul(x: Tensor, row_starts: Tensor, *_: object, **__: object) -> Tensor:
    return x.new_empty(x.shape[0], row_starts.numel() - 1)


@torch.library.register_fake("gistserve::segmented_matmul")
def _fake_segmented_matmul(
    x: Tensor,
    columns: Tensor,
    values: Tensor,
    offsets: Tensor | None,
    count: int | None,
    out_features: int,
    bias: Tensor | None = None,
) -> Tensor:
    return x.new_empty(x.shape[0], out_features)


@torch.library.register_fake("gistserve::segmented_to_dense")
def _fake_segmented_to_dense(
    columns: Tensor,
    values: Tensor,
    offsets: Tensor | None,
    count: int | None,
    out_features: int,
    in_features: int,
) -> Tensor:
    return values.new_empty(out_features, in_features)


@torch.library.register_fake("gistserve::bitmap_matmul")
def _fake_bitmap_matmul(x: Tensor, bitmap: Tensor, *_: object, **__: object) -> Tensor:
    return x.new_empty(x.shape[0], bitmap.shape[0])


@torch.library.register_fake("gistserve::bitmap_to_dense")
def _fake_bitmap_to_dense(
    bitmap: Tensor, values: Tensor, tile_offsets: Tensor, in_features: int
) -> Tensor:
    return values.new_empty(bitmap.shape[0], in_features)


def csr_matmul(x: Tensor, weight: CsrWeight, bias: Tensor | None) -> Tensor:
    """``x`` ``[B, K]`` times a CSR weight, ``[B, N]``."""
    return torch.ops.gistserve.csr_matmul(x, weight.row_starts, weight.columns, weight.values, bias)


def segmented_matmul(x: Tensor, weight: SegmentedRows, bias: Tensor | None) -> Tensor:
    """``x`` ``[B, K]`` times segmented rows, ``[B, N]``."""
    return torch.ops.gistserve.segmented_matmul(
        x, weight.columns, weight.values, weight.offsets, weight.count, weight.shape[0], bias
    )


def segmented_to_dense(weight: SegmentedRows) -> Tensor:
    """Segmented rows as a dense ``[N, K]``."""
    return torch.ops.gistserve.segmented_to_dense(
        weight.columns, weight.values, weight.offsets, weight.count, *weight.shape
    )


def bitmap_matmul(x: Tensor, weight: BitmapTiles, bias: Tensor | None) -> Tensor:
    """``x`` ``[B, K]`` times a bitmap weight, ``[B, N]``."""
    bitmap = weight.bitmap
    return torch.ops.gistserve.bitmap_matmul(x, bitmap.bitmap, bitmap.values, weight.offsets, bias)


def bitmap_to_dense(weight: BitmapTiles) -> Tensor:
    """A bitmap weight as a dense ``[N, K]``."""
    bitmap = weight.bitmap
    return torch.ops.gistserve.bitmap_to_dense(
        bitmap.bitmap, bitmap.values, weight.offsets, weight.shape[1]
    )
