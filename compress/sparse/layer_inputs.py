"""A decoder run layer by layer over calibration samples, one layer's activations at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import SparsityError


@dataclass(frozen=True)
class _Call:
    """What the model gives a layer beside the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Enough(Exception):
    """Ends a forward after the part that is wanted."""


class LayerInputs:
    """The hidden states of all samples before one layer of `model`; `advance` runs that layer.

    Holds `[S, T, H]` in all, and what the model passes to its layers beside them (masks,
    rotations), which must be the same for every sample.

    Args:
        layers: the model's repeated layers, in the order in which they run.
        tokens: int64 `[S, T]`.

    Raises:
        SparsityError: the layers do not follow each other directly, or are given more than the
            hidden states that depends on the text.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[nn.Module], tokens: Tensor) -> None:
        self._layers = layers
        tokens = tokens.to(model.device)
        self._calls = _record(model, layers, tokens[:1])
        _check_independence(model, self._calls, _record(model, layers, tokens[-1:]))
        self._hidden = [_embed(model, layers[0], sample) for sample in tokens.split(1)]
        self._next = 0

    def run(self) -> Iterator[Tensor]:
        """Outputs `[1, T, H]` of the current layer, sample after sample."""
        layer, call = self._layers[self._next], self._calls[self._next]
        for hidden in self._hidden:
            yield _first(layer(hidden, *call.args, **call.kwargs))

    def advance(self) -> None:
        """Replace the hidden states by the current layer's outputs and go to the next layer."""
        for index, output in enumerate(self.run()):
            self._hidden[index] = output
        self._next += 1


def _record(model: PreTrainedModel, layers: Sequence[nn.Module], tokens: Tensor) -> list[_Call]:
    """One forward over `tokens` `[1, T]`: the calls of all layers, which must form a chain."""
    calls: list[_Call] = []
    previous: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, others, named = _split(args, kwargs)
        in_order = len(calls) < len(layers) and module is layers[len(calls)]
        if not in_order or (previous and not torch.equal(previous.pop(), hidden)):
            raise SparsityError(
                f"the layers of {type(model).__name__} do not simply follow each other, so they "
                "cannot be calibrated one by one; choose the method magnitude"
            )
        calls.append(_Call(others, named))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        previous.append(_first(output))

    handles: list[Any] = []
    for layer in layers:
        handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(layer.register_forward_hook(after))
    with _removed(handles):
        model(input_ids=tokens, use_cache=False)
    return calls


def _embed(model: PreTrainedModel, first_layer: nn.Module, tokens: Tensor) -> Tensor:
    """What the model gives its first layer."""
    found: list[Tensor] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(_split(args, kwargs)[0])
        raise _Enough

    with _removed([first_layer.register_forward_pre_hook(stop, with_kwargs=True)]):
        try:
            model(input_ids=tokens, use_cache=False)
        except _Enough:
            return found[0]
    raise AssertionError("the first layer was not run")


def _check_independence(model: PreTrainedModel, left: list[_Call], right: list[_Call]) -> None:
    for a, b in zip(left, right, strict=True):
        if not _same([a.args, a.kwargs], [b.args, b.kwargs]):
            raise SparsityError(
                f"{type(model).__name__} gives its layers more of the text than hidden states, so "
                "they cannot be calibrated one by one; choose the method magnitude"
            )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(a is b or a == b)


def _split(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """The hidden states of a layer's call, and its other arguments."""
    if args:
        return args[0], args[1:], kwargs
    rest = dict(kwargs)
    return rest.pop("hidden_states"), (), rest


def _first(output: Any) -> Tensor:
    hidden = output[0] if isinstance(output, tuple) else output
    assert isinstance(hidden, Tensor)
    return hidden


@contextmanager
def _removed(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
