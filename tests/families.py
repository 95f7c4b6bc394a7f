"""Tiny random models of the families that the engine is proven on."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB_SIZE = 97

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_WINDOW: dict[str, Any] = {
    "sliding_window": 9,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
_MOE: dict[str, Any] = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 7},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {"head_dim": 16, **_MOE},
    "mistral": {"sliding_window": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "phi3": {},
    "gemma2": {
        "head_dim": 16,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        **_WINDOW,
    },
    "gemma3_text": {"head_dim": 16, **_WINDOW},
    "olmo2": {},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "gpt_oss": {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, **_WINDOW},
    "granite": {"logits_scaling": 2.0, "attention_multiplier": 0.3, "residual_multiplier": 0.5},
    "cohere2": {"logit_scale": 0.5, **_WINDOW},
    "starcoder2": {"sliding_window": 8},
    "gpt_neox": {"rotary_pct": 0.5},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "moe_intermediate_size": 24,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
}
"""Model type to what its configuration adds to the common sizes."""

WINDOWED = {"qwen2", "mistral", "gemma2", "gemma3_text", "gpt_oss", "cohere2", "starcoder2"}
"""Families whose tiny model has layers with a sliding window, shorter than the tests' prompts."""


def tiny_model(family: str, *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A random model of a family, in evaluation mode and fp32, with eager attention.

    Weights are spread wider than the families' own initialisation, so that attention is far from
    uniform and mistakes in it show in the logits.
    """
    config = AutoConfig.for_model(family, **{**_COMMON, **FAMILIES[family], **overrides})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.normal_(std=0.15)
                elif parameter.numel() > 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    assert isinstance(model, PreTrainedModel)
    return model
