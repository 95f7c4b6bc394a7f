"""Which linear layers are made sparse."""

import pytest
import torch
from gistserve.compress.errors import SparsityError
from gistserve.compress.sparse.layers import prunable_layers
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ...families import tiny_model


@pytest.mark.parametrize(
    ("family", "in_a_layer"),
    [
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("gpt2", {"c_attn", "c_proj", "c_fc"}),
        ("qwen3_moe", {"q_proj", "k_proj", "v_proj", "o_proj"}),  # experts are no linear layers
        ("opt", {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}),
    ],
)
def test_by_default_all_inside_the_layers(family, in_a_layer):
    names = prunable_layers(tiny_model(family))
    assert {name.rpartition(".")[2] for name in names} == in_a_layer
    assert all(".layers." in name or ".h." in name for name in names)


def test_choices():
    model = tiny_model("llama")
    assert list(prunable_layers(model, only=["lm_head"])) == ["lm_head"]
    assert len(prunable_layers(model, only=["down_proj", "self_attn.o_proj"])) == 6
    skipped = prunable_layers(model, skip=["model.layers.1", "mlp.gate_proj"])
    assert len(skipped) == 2 * 6
    only = prunable_layers(model, only=["model.layers.0.mlp"], skip=["down_proj"])
    assert sorted(only) == ["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"]


@pytest.mark.parametrize("option", ["only", "skip"])
def test_a_choice_that_matches_nothing(option):
    with pytest.raises(SparsityError, match=r"'proj' matches no linear layer.*up_proj, v_proj"):
        prunable_layers(tiny_model("llama"), **{option: ["proj"]})


def test_nothing_left():
    with pytest.raises(SparsityError, match="no linear layer of LlamaForCausalLM is left"):
        prunable_layers(tiny_model("llama"), skip=["model"])


def test_a_tied_head_cannot_be_chosen():
    with pytest.raises(SparsityError, match="'lm_head' matches no linear layer"):
        prunable_layers(tiny_model("llama", tie_word_embeddings=True), only=["lm_head"])


def test_an_encoder_decoder_model_is_refused():
    sizes = {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8}
    with pytest.raises(SparsityError, match=r"T5.* is an encoder-decoder model"):
        prunable_layers(T5ForConditionalGeneration(T5Config(vocab_size=16, **sizes)))


def test_a_model_without_linear_layers_is_refused():
    sizes = {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 16}
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, num_attention_heads=2, **sizes))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn = layer.mlp = nn.Identity()
    with pytest.raises(SparsityError, match="LlamaForCausalLM has no list of layers"):
        prunable_layers(model)
