"""The sparse linear operator: its public function, checks and dispatch by format and batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from .bitmap_tiles import BitmapTiles
from .choice import BITMAP_BATCH, SEGMENTED_BATCH
from .csr import CsrWeight
from .custom_ops import (
    bitmap_matmul,
    bitmap_to_dense,
    csr_matmul,
    segmented_matmul,
    segmented_to_dense,
)
from .dense import DenseWeight
from .segmented_rows import SegmentedRows

RuntimeWeight = DenseWeight | CsrWeight | SegmentedRows | BitmapTiles


def sparse_linear(x: Tensor, weight: RuntimeWeight, bias: Tensor | None = None) -> Tensor:
    """``x @ W.T + bias``, accumulated in float32, for inference: no gradient passes through.

    Outside ``torch.compile`` CSR weights take torch's kernels directly; everything else that is
    sparse goes through the operators ``torch.ops.gistserve.*_matmul``. Batches that are too large
    for a format's kernel are multiplied with a dense copy that lives as long as the call.

    Args:
        x: ``[..., K]`` in the weight's dtype and on its device.
        weight: ``[N, K]`` in any runtime format; CSR weights are for the CPU.
        bias: ``[N]`` in the weight's dtype, or None.

    Returns:
        ``[..., N]`` in the dtype of ``x``, contiguous.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
        RuntimeError: ``x`` asks for a gradient.
    """
    _check(x, weight, bias)
    if isinstance(weight, DenseWeight):
        return linear(x, weight.weight, bias)
    if not x.numel():
        return x.new_empty(*x.shape[:-1], weight.shape[0])
    if isinstance(weight, CsrWeight) and not torch.compiler.is_compiling():
        return weight.linear(x, bias)
    rows, columns = weight.shape
    return _product(x.reshape(-1, columns), weight, bias).view(*x.shape[:-1], rows)


def _product(
    x: Tensor, weight: CsrWeight | SegmentedRows | BitmapTiles, bias: Tensor | None
) -> Tensor:
    if isinstance(weight, CsrWeight):
        return csr_matmul(x, weight, bias)
    if isinstance(weight, SegmentedRows):
        if len(x) <= SEGMENTED_BATCH:
            return segmented_matmul(x, weight, bias)
        return linear(x, segmented_to_dense(weight), bias)
    if len(x) <= BITMAP_BATCH:
        return bitmap_matmul(x, weight, bias)
    return linear(x, bitmap_to_dense(weight), bias)


def _check(x: Tensor, weight: RuntimeWeight, bias: Tensor | None) -> None:
    rows, columns = weight.shape
    if x.shape[-1] != columns or x.dtype != weight.dtype or x.device != weight.device:
        raise ValueError(
            f"x is {x.dtype} {list(x.shape)} on {x.device}, but the sparse weight takes "
            f"{weight.dtype} [..., {columns}] on {weight.device}; move the layer with .to()"
        )
    if bias is not None and (
        tuple(bias.shape) != (rows,) or bias.dtype != weight.dtype or bias.device != weight.device
    ):
        raise ValueError(
            f"bias is {bias.dtype} {list(bias.shape)} on {bias.device}, but the sparse weight "
            f"needs {weight.dtype} [{rows}] on {weight.device}"
        )
    if x.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            "a sparse linear layer carries no gradients: run it under torch.inference_mode(), "
            "and train the dense masked model"
        )
