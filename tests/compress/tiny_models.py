"""The tiny random families, frozen and without sliding windows, and adapters that act."""

from typing import Any

import torch
from gistserve.compress.adapter import GistAdapter
from transformers import PreTrainedModel

from ..families import FAMILIES as ALL_FAMILIES
from ..families import WINDOWED
from ..families import tiny_model as any_tiny_model

FAMILIES = sorted(ALL_FAMILIES)
_NO_WINDOW = {"sliding_window": None}
_ALL_FULL = {"layer_types": ["full_attention"] * 3}
_UNWINDOWED: dict[str, dict[str, Any]] = {
    "qwen2": {"use_sliding_window": False},
    "mistral": _NO_WINDOW,
    "starcoder2": _NO_WINDOW,
    "gemma2": _ALL_FULL,
    "gemma3_text": _ALL_FULL,
    "gpt_oss": _ALL_FULL,
    "cohere2": _ALL_FULL,
}
assert set(_UNWINDOWED) == WINDOWED


def tiny_model(family: str) -> PreTrainedModel:
    """A frozen random model in which every layer attends to everything."""
    return any_tiny_model(family, **_UNWINDOWED.get(family, {})).requires_grad_(False)


def windowed_model(family: str) -> PreTrainedModel:
    return any_tiny_model(family).requires_grad_(False)


def randomise(adapter: GistAdapter, seed: int = 1) -> GistAdapter:
    """Give the LoRA (zero at first) an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for lora in adapter.loras:
            lora.b.copy_(0.1 * torch.randn(lora.b.shape, generator=generator))
    return adapter
