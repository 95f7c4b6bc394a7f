"""Sizes of the language models whose layers are measured."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import LlamaConfig


@dataclass(frozen=True)
class ModelShape:
    """A Llama-like model: grouped heads, gated feed-forward."""

    name: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tied_head: bool

    def config(self, max_model_len: int) -> LlamaConfig:
        """As a configuration of transformers."""
        return LlamaConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=max_model_len,
            tie_word_embeddings=self.tied_head,
        )


SMOLLM_135M = ModelShape("135M", 576, 1536, 30, 9, 3, 64, 49_152, tied_head=True)
LLAMA_1B = ModelShape("1B", 2048, 8192, 16, 32, 8, 64, 128_256, tied_head=True)
LLAMA_8B = ModelShape("8B", 4096, 14_336, 32, 32, 8, 128, 128_256, tied_head=False)
TINY = ModelShape("tiny", 32, 48, 2, 4, 2, 16, 64, tied_head=True)
