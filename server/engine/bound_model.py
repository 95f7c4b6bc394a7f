"""A transformers model for as long as it computes for us."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import ExitStack

from torch import Tensor
from transformers import PreTrainedModel

from ...kernels.attention import AttentionMetadata
from .attention_backend import ATTENTION_NAME, LayerCache, PagedContext
from .compiled_layers import CompiledLayers, compiled_layers
from .config import EngineConfig
from .fused_projections import fused_projections
from .packed_forward import packed_logits
from .packed_weights import packed_weights
from .position_limit import choose_max_model_len
from .probe import LayerSpec, check_class, probe_layers, try_shapes
from .static_forward import static_forward


class BoundModel:
    """A model set to our attention and to evaluation, and made ready for many forwards.

    Args:
        model: any decoder-only causal LM of transformers, on the device where it shall run.
        config: its dtype and limits, and what of it to fuse or compile.

    Raises:
        UnsupportedModelError: the model cannot be served, or not as asked for.
        ValueError: a setting does not fit the model.
    """

    def __init__(self, model: PreTrainedModel, config: EngineConfig) -> None:
        check_class(model)
        self.model = model
        self.device = model.device
        self.num_fused_projections = 0
        """Groups of linear layers that are computed as one."""
        self.num_packed_weights = 0
        """Linear layers whose weights are packed."""
        self._compiled: CompiledLayers | None = None
        self._pages: list[LayerCache] = []
        self._undo = ExitStack()
        try:
            self._bind(config)
        except BaseException:
            self.close()
            raise

    def attach(self, pages: list[LayerCache]) -> None:
        """Keep keys and values in these pages, one entry a layer, from now on."""
        self._pages = pages

    def logits(
        self,
        token_ids: Tensor,
        positions: Tensor,
        metadata: AttentionMetadata,
        *,
        rows: Tensor | None = None,
        upright: bool = False,
        plain: bool = False,
    ) -> Tensor:
        """Logits ``[R, V]`` of a packed batch; arguments as ``packed_logits``.

        With ``plain`` nothing that is compiled takes part.
        """
        paged = PagedContext(metadata, self._pages)
        if self._compiled is None or plain:
            return packed_logits(
                self.model, token_ids, positions, paged, rows=rows, upright=upright
            )
        with self._compiled.step(paged) as step:
            return packed_logits(self.model, token_ids, positions, step, rows=rows, upright=upright)

    def close(self) -> None:
        """Give the model back as it was."""
        self._undo.close()

    def _bind(self, config: EngineConfig) -> None:
        model = self.model
        self._undo.callback(model.train, model.training)
        self._undo.callback(model.set_attn_implementation, model.config._attn_implementation)
        model.set_attn_implementation(ATTENTION_NAME)
        model.eval()
        self.layer_specs: list[LayerSpec] = probe_layers(model)
        _check_dtype(config, self.layer_specs)
        self.max_model_len = choose_max_model_len(model, config.max_model_len)
        self._undo.enter_context(static_forward(model))
        fuse = config.fuse_projections
        if fuse or (fuse is None and self.device.type == "cuda"):
            fused = fused_projections(model, functools.partial(try_shapes, model))
            self.num_fused_projections = self._undo.enter_context(fused)
        if self.device.type == "cpu" and not config.compile:
            packed = packed_weights(model, functools.partial(try_shapes, model))
            self.num_packed_weights = self._undo.enter_context(packed)
        if config.compile:
            self._compiled = self._undo.enter_context(compiled_layers(model))


def _check_dtype(config: EngineConfig, specs: Sequence[LayerSpec]) -> None:
    for spec in specs:
        if config.dtype not in (None, spec.dtype):
            raise ValueError(
                f"the cache's dtype is the model's, {spec.dtype}, not {config.dtype}; load the "
                f"model in {config.dtype}"
            )
