"""A model small enough to write in a test."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig


def tiny_llama(**changes: Any) -> LlamaConfig:
    """Two layers; six heads share two of keys, so that their orders differ."""
    sizes: dict[str, Any] = {
        "vocab_size": 1200,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": None,
        # Wide enough that logits tell tokens apart.
        "initializer_range": 0.2,
    }
    return LlamaConfig(**(sizes | changes))
