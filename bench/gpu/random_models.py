"""Models of random weights, dense or sparse, made on the device where they shall run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from ...kernels.sparse import SEGMENT, SparseLinear
from .device import BenchDevice
from .model_shapes import ModelShape
from .sparse_weights import exact_mask

MAX_MODEL_LEN = 8192


@dataclass(frozen=True)
class RandomModel:
    """A model, and the bytes of weights that a decode step reads."""

    model: PreTrainedModel
    weight_bytes: float

    @classmethod
    def make(cls, shape: ModelShape, sparsity: float, device: BenchDevice) -> RandomModel:
        """Of this share of zeros in the layers' projections; embeddings and head stay dense."""
        config = shape.config(64 if device.tiny else MAX_MODEL_LEN)
        with torch.device(device.device):
            model = AutoModelForCausalLM.from_config(config, dtype=device.dtype).eval()
        weight_bytes = dense_weight_bytes(shape, device.dtype.itemsize)
        if sparsity:
            weight_bytes -= _make_sparse(model, sparsity, device)
        return cls(model, weight_bytes)


def dense_weight_bytes(shape: ModelShape, itemsize: int) -> float:
    """All weights once, but for an embedding table that is not the head as well."""
    attention = 2 * shape.hidden_size * (shape.num_heads + shape.num_kv_heads) * shape.head_dim
    layer = attention + 3 * shape.hidden_size * shape.intermediate_size + 2 * shape.hidden_size
    head = shape.hidden_size * shape.vocab_size + shape.hidden_size
    return float(itemsize) * (shape.num_layers * layer + head)


def _make_sparse(model: PreTrainedModel, sparsity: float, device: BenchDevice) -> float:
    """Replace the linear layers of the decoder; the bytes that this saves."""
    masks: dict[torch.Size, Tensor] = {}
    saved = 0.0
    linears = [(n, m) for n, m in model.base_model.named_modules() if isinstance(m, nn.Linear)]
    for name, linear in linears:
        size = linear.weight.shape
        if size not in masks:
            masks[size] = exact_mask(device, *_segments(size, sparsity))
        sparse = SparseLinear.from_linear(linear, masks[size])
        saved += linear.weight.numel() * linear.weight.element_size() - sparse.prepare().num_bytes
        model.base_model.set_submodule(name, sparse)
    return saved


def _segments(size: torch.Size, sparsity: float) -> tuple[tuple[int, int], int, int]:
    """The matrix, columns of a segment and how many of those are kept."""
    segment = SEGMENT if size[1] % SEGMENT == 0 else size[1]
    return (size[0], size[1]), segment, max(1, round((1 - sparsity) * segment))
