"""Tiny random models of many families, frozen and in fp32."""

import torch
from gistserve.compress.adapter import GistAdapter
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 64
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXTRA: dict[str, dict] = {
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {
        "head_dim": 8,
        "num_experts": 4,
        "moe_intermediate_size": 16,
        "num_experts_per_tok": 2,
    },
    "mistral": {"sliding_window": None},
    "mixtral": {"sliding_window": None, "num_local_experts": 4},
    "phi3": {"sliding_window": None},
    "starcoder2": {"sliding_window": None},
    "gpt_neox": {"num_key_value_heads": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "q_lora_rank": None,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    },
    "windowed mistral": {"sliding_window": 8},
    "gemma2": {"sliding_window": 8, "head_dim": 8},
}
FAMILIES = [
    "llama",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "mistral",
    "mixtral",
    "phi3",
    "olmo2",
    "smollm3",
    "granite",
    "starcoder2",
    "gpt_neox",
    "gpt2",
    "opt",
    "deepseek_v3",
]
WINDOWED = ["windowed mistral", "gemma2"]


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A frozen random model; weights large enough that attention is not uniform."""
    settings = _SIZES | _EXTRA.get(family, {})
    if family == "gpt2":
        settings = {k: v for k, v in settings.items() if k in ("vocab_size",) or k[:2] == "n_"}
    config = AutoConfig.for_model(family.split()[-1], **settings)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return model.eval().requires_grad_(False)


def randomise(adapter: GistAdapter, seed: int = 1) -> GistAdapter:
    """Give the LoRA (zero at first) an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for lora in adapter.loras:
            lora.b.copy_(0.1 * torch.randn(lora.b.shape, generator=generator))
    return adapter
