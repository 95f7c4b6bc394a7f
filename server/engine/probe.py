"""Finds out, by one small forward, whether and how a model's layers use our attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from .attention_backend import CONTEXT_KEYWORD, AttentionCall
from .errors import UnsupportedModelError
from .packed_forward import packed_logits

_REMEDY = (
    "Serve a decoder-only model whose layers are all softmax attention through transformers' "
    "AttentionInterface (Llama, Qwen, Mistral, Gemma, Phi, OLMo, GPT-NeoX and many more)."
)


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What a layer keeps of a token, and how far back it looks."""

    kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    sliding_window: int | None

    @property
    def bytes_per_slot(self) -> int:
        return self.kv_heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


class Probe:
    """An attention context that attends over the new tokens alone and remembers who asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[AttentionCall, Any, dict[str, Any]]] = []
        """(what was asked, the module that asked, what else it passed)."""

    def attend(self, call: AttentionCall, module: nn.Module, extra: dict[str, Any]) -> Tensor:
        self.calls.append((call, module, extra))
        out = F.scaled_dot_product_attention(
            call.query.transpose(0, 1),
            call.key.transpose(0, 1),
            call.value.transpose(0, 1),
            is_causal=True,
            enable_gqa=call.query.shape[1] != call.key.shape[1],
        )
        return out.transpose(0, 1)


def check_class(model: PreTrainedModel) -> None:
    """Raise UnsupportedModelError unless the class routes attention through AttentionInterface."""
    if not getattr(model, "_supports_attention_backend", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not supported: the class keeps its own attention and "
            f"cannot be served with paged attention. {_REMEDY}"
        )
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not supported: it is an encoder-decoder model. {_REMEDY}"
        )


@torch.inference_mode()
def probe_layers(model: PreTrainedModel) -> list[LayerSpec]:
    """The cache shape of each layer of a model that is set to our attention.

    Args:
        model: in evaluation mode, its attention implementation set to ``ATTENTION_NAME``.

    Raises:
        UnsupportedModelError: a layer does not attend through our function exactly once, or asks
            for something that paged attention does not do.
    """
    probe = Probe()
    device = model.device
    tokens = torch.zeros(1, 2, dtype=torch.int64, device=device)
    positions = torch.arange(2, device=device)[None]
    try:
        model(
            input_ids=tokens,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=1,
            **{CONTEXT_KEYWORD: probe},
        )
    except (TypeError, AttributeError, ValueError) as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not supported: a packed forward failed ({error}). {_REMEDY}"
        ) from error
    config = model.config.get_text_config(decoder=True)
    _check_calls(type(model).__name__, probe, config)
    layers = sorted(probe.calls, key=lambda asked: asked[1].layer_idx)
    return [_shape(call) for call, _, _ in layers]


@torch.inference_mode()
def attending_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The modules of a bound model that call attention, by layer."""
    probe = Probe()
    token = torch.zeros(1, dtype=torch.int64, device=model.device)
    packed_logits(model, token, token, probe)
    return sorted((module for _, module, _ in probe.calls), key=lambda module: module.layer_idx)


@torch.inference_mode()
def try_shapes(model: PreTrainedModel) -> None:
    """Run a bound model once in each shape of batch: tokens in a row, and one of each sequence."""
    tokens = torch.zeros(2, dtype=torch.int64, device=model.device)
    positions = torch.arange(2, device=model.device)
    for upright in (False, True):
        packed_logits(model, tokens, positions, Probe(), upright=upright)


def _check_calls(name: str, probe: Probe, config: Any) -> None:
    asked = sorted(module.layer_idx for _, module, _ in probe.calls)
    num_layers = config.num_hidden_layers
    if asked != list(range(num_layers)):
        raise UnsupportedModelError(
            f"{name} is not supported: of its {num_layers} layers, {len(set(asked))} attend "
            f"through paged attention, in {len(asked)} calls; each layer must, exactly once. "
            f"{_REMEDY}"
        )
    types = getattr(config, "layer_types", None) or ["attention"] * num_layers
    for call, module, extra in probe.calls:
        layer = module.layer_idx
        causal = getattr(module, "is_causal", True)
        reason = _unsupported(call, causal, extra, types[layer], config)
        if reason:
            raise UnsupportedModelError(
                f"{name} is not supported: layer {layer} {reason}. {_REMEDY}"
            )


def _unsupported(
    call: AttentionCall, causal: bool, extra: dict[str, Any], layer_type: str, config: Any
) -> str | None:
    """Why a layer's attention is not ours to compute, or None."""
    if not causal or extra.get("is_causal") is False:
        return "is not causal"
    if extra.get("position_bias") is not None:
        return "adds a position bias to its scores"
    if layer_type == "chunked_attention" or extra.get("attention_chunk_size") is not None:
        return "attends in chunks"
    windowed = layer_type == "sliding_attention" or (
        layer_type == "attention" and getattr(config, "sliding_window", None) is not None
    )
    if windowed and call.sliding_window is None:
        return "has a sliding window that it does not tell its attention function"
    return None


def _shape(call: AttentionCall) -> LayerSpec:
    return LayerSpec(
        kv_heads=call.key.shape[1],
        key_dim=call.key.shape[2],
        value_dim=call.value.shape[2],
        dtype=call.key.dtype,
        sliding_window=call.sliding_window,
    )
