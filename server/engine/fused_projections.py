"""Computes linear layers of one input by one matrix product, without changing the modules.

A decode step is bound by reading weights, and small products reach the memory's bandwidth worse
than large ones, so the queries', keys' and values' projections run as one, like the gate's and the
up projection's of an MLP. The weights are laid side by side in one tensor and the layers' own
parameters become views of it: names, values, shapes and hooks stay, and no memory is added.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Names of sibling layers that take the same input where both are plain linear layers.
_SIBLINGS = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
)

Group = list[nn.Linear]

logger = logging.getLogger(__name__)


@contextmanager
def fused_projections(model: nn.Module, forward: Callable[[], object]) -> Iterator[int]:
    """Within the block, sibling projections of ``model`` are computed together.

    Layers that are no plain ``nn.Linear``, or differ in dtype or device, are left alone, as are
    siblings that ``forward`` does not call with the same tensor.

    Args:
        model: its weights are moved once, a group at a time, and moved back at the end.
        forward: runs the model, in every shape of batch that it will see.

    Yields:
        How many groups are fused.
    """
    groups = [group for group in _candidates(model) if _can_fuse(group)]
    groups = _called_alike(groups, forward)
    with ExitStack() as undo:
        for group in groups:
            undo.enter_context(_fused(group))
        try:
            forward()
        except RuntimeError as error:  # a view that the model takes of an output, most likely
            undo.close()
            groups = []
            name = type(model).__name__
            logger.warning("%s runs with its projections apart: %s", name, error)
        yield len(groups)


def _candidates(model: nn.Module) -> Iterator[Group]:
    for module in model.modules():
        for names in _SIBLINGS:
            layers = [getattr(module, name, None) for name in names]
            # Exactly this class, with no forward of its own: what that does would be left out.
            if all(type(layer) is nn.Linear and "forward" not in vars(layer) for layer in layers):
                yield layers  # type: ignore[misc]


def _can_fuse(group: Group) -> bool:
    first = group[0]
    return all(
        layer.in_features == first.in_features
        and layer.weight.dtype == first.weight.dtype
        and layer.weight.device == first.weight.device
        and (layer.bias is None) == (first.bias is None)
        and type(layer.weight.data) is Tensor
        for layer in group
    )


def _called_alike(groups: list[Group], forward: Callable[[], object]) -> list[Group]:
    """The groups whose layers ``forward`` calls with one tensor after the other in turn."""
    calls: list[list[tuple[int, Tensor]]] = [[] for _ in groups]
    with ExitStack() as hooks:
        for seen, group in zip(calls, groups, strict=True):
            for index, layer in enumerate(group):
                hook = functools.partial(_record, seen, index)
                hooks.callback(layer.register_forward_pre_hook(hook).remove)
        forward()
    return [group for group, seen in zip(groups, calls, strict=True) if _in_turn(seen, len(group))]


def _record(
    seen: list[tuple[int, Tensor]], index: int, layer: nn.Module, args: tuple[Tensor, ...]
) -> None:
    seen.append((index, args[0]))


def _in_turn(seen: list[tuple[int, Tensor]], size: int) -> bool:
    rounds = [seen[start : start + size] for start in range(0, len(seen), size)]
    return bool(rounds) and all(
        sorted(index for index, _ in calls) == list(range(size))
        and all(x is calls[0][1] for _, x in calls)
        for calls in rounds
    )


@contextmanager
def _fused(group: Group) -> Iterator[None]:
    product = _FusedProduct(group)
    for index, layer in enumerate(group):
        layer.__class__ = _FusedLinear
        vars(layer).update(index=index, product=product)
    try:
        yield
    finally:
        for layer in group:
            layer.__class__ = nn.Linear
            del vars(layer)["index"], vars(layer)["product"]
            for parameter in layer.parameters():
                parameter.data = parameter.data.clone()


class _FusedLinear(nn.Linear):
    """What a layer is while it is fused: a class, since torch.compile takes one for the same in
    every decoder layer, but not a function that was bound to each."""

    index: int
    product: _FusedProduct

    def forward(self, input: Tensor) -> Tensor:
        return self.product.part(self.index, input)


class _FusedProduct:
    """The product of a group: whichever layer is called first computes it for all of them."""

    def __init__(self, group: Group) -> None:
        self._sizes = [layer.out_features for layer in group]
        self._weight = _side_by_side([layer.weight for layer in group], self._sizes)
        self._bias: Tensor | None = None
        if group[0].bias is not None:
            self._bias = _side_by_side([layer.bias for layer in group], self._sizes)
        self._input: Tensor | None = None
        self._parts: list[Tensor | None] = [None] * len(group)

    def part(self, index: int, x: Tensor) -> Tensor:
        """Output ``[..., out]`` of one layer for ``x [..., in]``: a view of all layers' outputs."""
        out = self._parts[index]
        if out is None or x is not self._input:
            self._input = x
            self._parts = list(F.linear(x, self._weight, self._bias).split(self._sizes, dim=-1))
            out = self._parts[index]
            assert out is not None
        self._parts[index] = None
        if all(part is None for part in self._parts):
            self._input = None  # it lives no longer than without us
        return out


def _side_by_side(parameters: Sequence[Tensor], sizes: list[int]) -> Tensor:
    """One tensor of all rows, of which the parameters become views."""
    whole = torch.cat([parameter.data for parameter in parameters])
    for parameter, rows in zip(parameters, whole.split(sizes), strict=True):
        parameter.data = rows
    return whole
