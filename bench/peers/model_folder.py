"""The folder that all servers load: one model, told of no end token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

from ..load.errors import LoadError
from .tokenizer import make_tokenizer

SHAPES = {
    # HuggingFaceTB/SmolLM2-135M
    "135m": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=None,
    ),
}
_CONFIGS = ("config.json", "generation_config.json")


def write_random_model(config: LlamaConfig, dtype: torch.dtype, folder: Path) -> None:
    """Random weights (seed 0) of this shape and a tokenizer that fills its vocabulary."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.generation_config = GenerationConfig()
    model.save_pretrained(folder)
    make_tokenizer(config.vocab_size).save_pretrained(folder)


def link_without_end(source: Path, folder: Path) -> None:
    """Link the files of the model in `source`, and leave the end token out of its configuration.

    transformers has no request field that ignores it.

    Raises:
        LoadError: `source` is no folder with a model.
    """
    if not (source / "config.json").is_file():
        raise LoadError(f"{source} holds no config.json; --model takes the folder of a model.")
    folder.mkdir()
    for file in source.iterdir():
        if file.is_file() and file.name not in _CONFIGS:
            (folder / file.name).symlink_to(file.resolve())
    for name in _CONFIGS:
        path = source / name
        settings: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        (folder / name).write_text(json.dumps(settings | {"eos_token_id": None}), encoding="utf-8")
