"""Decoder layers compiled by torch.compile: once for all layers of a kind, not once for each.

What tells one layer from the next must not be a constant of the compiled code, nor may it depend on
sizes that change from step to step. So attention is one opaque operator there: it is told its layer
by a tensor that hangs on the calling module, and takes pages and lengths from the step that its
thread computes.
"""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .attention_backend import CONTEXT_KEYWORD, AttentionCall, PagedContext
from .errors import UnsupportedModelError
from .probe import attending_modules

BACKEND = "inductor"
"""What compiles the layers; see ``torch.compile``."""

_LAYER = "gistserve_layer"


class _Step(threading.local):
    """What the forward that a thread runs attends to."""

    context: PagedContext | None = None


_step = _Step()


class CompiledLayers:
    """The repeated blocks of a model, compiled for forwards with a context of :meth:`step`.

    Other forwards, a compression's with its hooks among them, run the blocks as they are.
    """

    def __init__(self, blocks: Sequence[nn.Module], attention: Sequence[nn.Module]) -> None:
        self._blocks = blocks
        self._attention = attention
        self._context = StepContext()
        # Code of its own: what other models compile must not count towards the limit of this one.
        run_block = types.FunctionType(_run_block.__code__.replace(), globals())
        compiled = torch.compile(run_block, dynamic=True, backend=BACKEND)
        for block in blocks:
            block.forward = functools.partial(_choose, compiled, block)
        for layer, module in enumerate(attention):
            vars(module)[_LAYER] = torch.tensor(layer)  # on the CPU, where the operator reads it

    @contextmanager
    def step(self, context: PagedContext) -> Iterator[StepContext]:
        """What stands for ``context`` in this thread's forwards within the block."""
        _step.context = context
        try:
            yield self._context
        finally:
            _step.context = None

    def close(self) -> None:
        """Leave the modules as they were."""
        for block in self._blocks:
            del block.forward
        for module in self._attention:
            del vars(module)[_LAYER]


class StepContext:
    """Attention over whatever its thread's step is over."""

    def attend(self, call: AttentionCall, module: nn.Module, extra: dict[str, Any]) -> Tensor:
        return torch.ops.gistserve.attend_in_step(
            getattr(module, _LAYER),
            call.query,
            call.key,
            call.value,
            call.scale,
            call.sliding_window,
            call.softcap,
            call.sinks,
        )


@contextmanager
def compiled_layers(model: PreTrainedModel) -> Iterator[CompiledLayers]:
    """Compile the layers of a model that is set to our attention, until the block ends.

    Nothing is compiled before a forward comes that needs it.

    Raises:
        UnsupportedModelError: the model has no list of blocks with one attention each.
    """
    attention = attending_modules(model)
    layers = CompiledLayers(_blocks(model, attention), attention)
    try:
        yield layers
    finally:
        layers.close()


def _blocks(model: PreTrainedModel, attention: Sequence[nn.Module]) -> Sequence[nn.Module]:
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == len(attention):
            pairs = zip(module, attention, strict=True)
            if all(any(part is attends for part in block.modules()) for block, attends in pairs):
                return list(module)
    raise UnsupportedModelError(
        f"{type(model).__name__} cannot be compiled: it has no list of layers of which each "
        "attends once; serve it without compiling"
    )


def _choose(compiled: Any, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if type(kwargs.get(CONTEXT_KEYWORD)) is StepContext:
        return compiled(block, args, kwargs)
    return _run_block(block, args, kwargs)


def _run_block(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return type(block).forward(block, *args, **kwargs)


# Its schema knows nothing of the pages that it writes. A block calls it once, and nothing else in a
# block reads them, so no order can go wrong; whereas to keep a declared change functional some
# backends would copy the pages, all of them.
torch.library.define(
    "gistserve::attend_in_step",
    "(Tensor layer, Tensor query, Tensor key, Tensor value, float scale, int? sliding_window, "
    "float? softcap, Tensor? sinks) -> Tensor",
)


@torch.library.impl("gistserve::attend_in_step", "CompositeExplicitAutograd")
def _attend_in_step(
    layer: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    sliding_window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    context = _step.context
    assert context is not None, "compiled layers run outside of a step"
    call = AttentionCall(query, key, value, scale, sliding_window, softcap, sinks)
    return context.attend_layer(call, int(layer)).contiguous()


@torch.library.register_fake("gistserve::attend_in_step")
def _fake(layer: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object) -> Tensor:
    return query.new_empty(*query.shape[:2], value.shape[2])
