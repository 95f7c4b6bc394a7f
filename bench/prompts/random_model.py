"""Folders of models with random weights, and of adapters that nobody has trained.

Speed and memory do not depend on what weights say; quality does, and is not measured on these.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from ...compress.adapter import GistAdapter
from ...compress.config import GistConfig
from ...compress.fingerprint import model_fingerprint
from ...server.demo import EMBEDDED_MODEL
from ...server.engine.loader import load_model
from ..gpu.model_shapes import LLAMA_1B, LLAMA_8B, ModelShape

SHAPES = {
    "135m": ModelShape("135M", 576, 1536, 30, 9, 3, 64, 49_152, tied_head=True),
    "1b": LLAMA_1B,
    "8b": LLAMA_8B,
}
"""SmolLM-135M's shape, and those of Llama 3."""

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def write_random_model(
    shape: ModelShape, folder: Path, *, max_model_len: int, dtype: torch.dtype, seed: int = 0
) -> None:
    """Write a model of this shape with the embedded model's tokenizer and chat template."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        config = shape.config(max_model_len)
        model = LlamaForCausalLM._from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    for name in _TOKENIZER:
        shutil.copy(EMBEDDED_MODEL / name, folder / name)


def write_untrained_adapter(model: str, gist_tokens: int, folder: Path) -> None:
    """Write a fresh adapter of so many gist tokens for a model's folder or hub name.

    It costs what a trained one of the default LoRA does. Raises what loading the model raises.
    """
    loaded, tokenizer = load_model(model, None, "cpu")
    config = GistConfig(
        num_gist_tokens=gist_tokens,
        base_model=Path(model).name,
        base_fingerprint=model_fingerprint(loaded, tokenizer, source=model),
        training={"untrained": True},
    )
    GistAdapter.create(loaded, config).save(folder)
