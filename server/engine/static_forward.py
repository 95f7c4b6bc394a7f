"""Takes out of a model's forward what waits for the device though its outcome is known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

_PADDING_CHECK = "warn_if_padding_and_no_attention_mask"


@contextmanager
def static_forward(model: nn.Module) -> Iterator[None]:
    """Within the block no forward of ``model`` reads a tensor to decide what to do about it.

    - RoPE of type "dynamic" or "longrope" looks at the largest position of every forward, to choose
      its frequencies. The engine serves no position beyond the original length, up to which they
      stay the same, so they are kept as they are now. (A forward of short prompts must have come
      before, which sets them back where a longer one had changed them.)
    - Some models compare the tokens with the padding token, only to warn.

    A forward can then be captured in a CUDA graph.
    """
    with ExitStack() as undo:
        for module in model.modules():
            rope_type = getattr(module, "rope_type", None)
            if rope_type is not None:
                _shadow(undo, module, "rope_type", _kept(rope_type))
            if callable(getattr(module, _PADDING_CHECK, None)):
                _shadow(undo, module, _PADDING_CHECK, _check_nothing)
        yield


def _kept(rope_type: Any) -> Any:
    """The type under which the frequencies stay; a dict of types by kind of layer likewise."""
    if isinstance(rope_type, dict):
        return {layer: _kept(kind) for layer, kind in rope_type.items()}
    changes = rope_type is not None and ("dynamic" in rope_type or rope_type == "longrope")
    return "default" if changes else rope_type


def _check_nothing(*_: Any, **__: Any) -> None:
    return None


def _shadow(undo: ExitStack, module: nn.Module, name: str, value: Any) -> None:
    """Give the instance an attribute of its own until ``undo`` closes."""
    held = vars(module)
    if name in held:
        undo.callback(held.__setitem__, name, held[name])
    else:
        undo.callback(held.pop, name)
    held[name] = value
