"""Computes linear layers on the CPU from weights that oneDNN has laid out once for all.

A product of a few rows reads the whole weight, and where that is stored row by row much of the time
goes into bringing it into the order that the vector units want, again in every step. Laid out in
that order at the start, the products of a decode step of 8 sequences take two thirds of the time or
less. No memory is added, but for a head that shares its weight with the embedding: a packed weight
takes the plain one's place, opaque but for shape, dtype and device, until the block ends.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeGuard

import torch
from torch import Tensor, nn

# Elements below which finding oneDNN's product costs more than the layout spares.
_SMALLEST = 2**18

logger = logging.getLogger(__name__)


@contextmanager
def packed_weights(model: nn.Module, forward: Callable[[], object]) -> Iterator[int]:
    """Within the block, large plain linear layers of ``model`` keep their weights packed.

    Layers that are no plain ``nn.Linear``, or of a dtype that this processor has no product for,
    are left alone.

    Args:
        model: on the CPU.
        forward: runs the model, in every shape of batch that it will see.

    Yields:
        How many layers are packed.
    """
    shared = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    layers = [module for module in model.modules() if _can_pack(module)]
    with ExitStack() as undo:
        for layer in layers:
            undo.enter_context(_packed(layer, is_shared=shared[id(layer.weight)] > 1))
        if layers:
            _leave_file(model)
        try:
            forward()
        except RuntimeError as error:
            undo.close()
            layers = []
            name = type(model).__name__
            logger.warning("%s runs with its weights as they are: %s", name, error)
        yield len(layers)


def packed_bytes(model: nn.Module) -> int:
    """Bytes of the weights that are packed now, in their dtype."""
    layers = (module for module in model.modules() if isinstance(module, _PackedLinear))
    return sum(layer.packed.numel() * layer.packed.element_size() for layer in layers)


def _can_pack(module: nn.Module) -> TypeGuard[nn.Linear]:
    # Exactly this class, with no forward of its own: what that does would be left out.
    if type(module) is not nn.Linear or "forward" in vars(module):
        return False
    weight = module.weight
    return (
        weight.device.type == "cpu"
        and weight.numel() >= _SMALLEST
        and type(weight.data) is Tensor
        and _has_products(weight.dtype)
    )


def _has_products(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


@contextmanager
def _packed(layer: nn.Linear, *, is_shared: bool) -> Iterator[None]:
    plain = layer.weight
    packed = torch.ops.mkldnn._reorder_linear_weight(plain.detach())
    if not is_shared:
        layer.weight = nn.Parameter(packed, plain.requires_grad)
        del plain
    layer.__class__ = _PackedLinear
    vars(layer)["packed"] = packed
    try:
        yield
    finally:
        layer.__class__ = nn.Linear
        del vars(layer)["packed"]
        if not is_shared:
            layer.weight = nn.Parameter(packed.to_dense(), layer.weight.requires_grad)


def _leave_file(model: nn.Module) -> None:
    """Copy what is not packed: a checkpoint's file stays mapped as a whole, and in memory, as long
    as one tensor lies in it."""
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_mkldnn:
            tensor.data = tensor.data.clone()


class _PackedLinear(nn.Linear):
    packed: Tensor

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            input, self.packed, self.bias, "none", [], ""
        )
        return out
