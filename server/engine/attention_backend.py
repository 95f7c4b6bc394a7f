"""The bridge between transformers' modules and whatever computes their attention.

The forward of a served model carries an :class:`AttentionContext` as a keyword argument; the
modules hand it on to the function registered here, which holds no state of its own. So several
models can run in one process, and a model is only bound to us by its configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface

from ...kernels.attention import AttentionMetadata, paged_attention

ATTENTION_NAME = "gistserve"
"""The attention implementation that a served model's configuration names."""

CONTEXT_KEYWORD = "gistserve_context"
"""The keyword argument of ``forward`` that carries the context."""


@dataclass(slots=True)
class AttentionCall:
    """One layer's request: a packed batch of T tokens and what the layer asks of its attention."""

    query: Tensor
    """``[T, Hq, D]``, rotated."""
    key: Tensor
    """``[T, Hkv, D]``, rotated; new tokens only."""
    value: Tensor
    """``[T, Hkv, Dv]``."""
    scale: float
    sliding_window: int | None
    softcap: float | None
    sinks: Tensor | None
    """``[Hq]``."""


class AttentionContext(Protocol):
    """What one forward attends to."""

    def attend(self, call: AttentionCall, module: nn.Module, extra: dict[str, Any]) -> Tensor:
        """Attention's output ``[T, Hq, Dv]``; ``module.layer_idx`` says which layer asks, ``extra``
        holds what else it passed."""


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's pages."""

    key: Tensor
    """``[num_blocks, block_size, Hkv, D]``."""
    value: Tensor
    """``[num_blocks, block_size, Hkv, Dv]``."""


@dataclass(frozen=True, slots=True)
class PagedContext:
    """Attention over the pages of a pool."""

    metadata: AttentionMetadata
    layers: list[LayerCache]

    def attend(self, call: AttentionCall, module: nn.Module, extra: dict[str, Any]) -> Tensor:
        return self.attend_layer(call, module.layer_idx)  # type: ignore[arg-type]

    def attend_layer(self, call: AttentionCall, layer: int) -> Tensor:
        """Attention's output ``[T, Hq, Dv]`` in the layer of that number."""
        cache = self.layers[layer]
        return paged_attention(
            call.query,
            call.key,
            call.value,
            cache.key,
            cache.value,
            self.metadata,
            scale=call.scale,
            sliding_window=call.sliding_window,
            softcap=call.softcap,
            sinks=call.sinks,
        )


def gistserve_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    gistserve_context: AttentionContext | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: ``query [1, Hq, T, D]`` to output ``[1, T, Hq, Dv]``.

    A batch of one token a sequence may also come as ``[T, Hq, 1, D]``, and leaves as
    ``[T, 1, Hq, Dv]``: for the modules around us that is the faster shape.

    Raises:
        RuntimeError: the model was called by something else than the runner that it is bound to.
    """
    if gistserve_context is None:
        raise RuntimeError(
            f"{type(module).__name__} runs paged attention for a ModelRunner and cannot be called "
            "directly; close the runner first"
        )
    upright = query.shape[2] == 1
    if upright:
        query, key, value = query.squeeze(2), key.squeeze(2), value.squeeze(2)
    else:
        query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    call = AttentionCall(
        query=query,
        key=key,
        value=value,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        sliding_window=sliding_window,
        softcap=softcap,
        sinks=s_aux,
    )
    return gistserve_context.attend(call, module, extra).unsqueeze(1 if upright else 0), None


AttentionInterface.register(ATTENTION_NAME, gistserve_attention)
