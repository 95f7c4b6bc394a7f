"""Models that cannot be served are refused at load, by class, with what to do."""

import pytest
import torch
from gistserve.server.engine import model_runner
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.errors import UnsupportedModelError
from gistserve.server.engine.model_runner import ModelRunner
from transformers import AutoConfig, AutoModelForCausalLM

from ...families import tiny_model

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
# Set no _supports_attention_backend; set it, but have layers without attention; attend in chunks.
REFUSED = {
    "bloom": {"n_layer": 2, "n_head": 4},
    "falcon": {"num_hidden_layers": 2},
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32, "num_key_value_heads": 1},
    "lfm2": {
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "layer_types": ["conv", "full_attention", "conv"],
    },
    "llama4_text": {
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size_mlp": 32,
        "num_local_experts": 2,
    },
    "mamba": {"num_hidden_layers": 2, "state_size": 4},
}


def serve(model):
    return ModelRunner(model, EngineConfig(num_blocks=4))


@pytest.mark.parametrize("family", REFUSED)
def test_other_kinds_of_models(family):
    config = AutoConfig.for_model(family, **{**SMALL, **REFUSED[family]})
    model = AutoModelForCausalLM.from_config(config)
    before = model.config._attn_implementation
    with pytest.raises(UnsupportedModelError, match=f"{type(model).__name__} is not supported"):
        serve(model)
    assert model.config._attn_implementation == before and model.training


def test_a_layer_that_attends_twice():
    model = tiny_model("llama")
    first, second = model.model.layers[:2]
    second.self_attn = first.self_attn
    with pytest.raises(UnsupportedModelError, match=r"3 layers, 2 attend .* in 3 calls"):
        serve(model)


def test_a_layer_that_is_not_causal():
    model = tiny_model("llama")
    model.model.layers[1].self_attn.is_causal = False
    with pytest.raises(UnsupportedModelError, match="layer 1 is not causal"):
        serve(model)


def test_a_window_that_attention_is_not_told_of():
    model = tiny_model("llama")
    model.config.layer_types = ["full_attention", "full_attention", "sliding_attention"]
    with pytest.raises(UnsupportedModelError, match="layer 2 has a sliding window"):
        serve(model)


def test_windows_are_found():
    assert serve(tiny_model("gemma2")).has_sliding_window
    assert not serve(tiny_model("llama")).has_sliding_window


def test_the_model_is_given_back_where_the_pool_cannot_be_made(monkeypatch):
    def no_memory(*_, **__):
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setattr(model_runner, "KVPool", no_memory)
    model = tiny_model("llama")
    with pytest.raises(torch.OutOfMemoryError):
        serve(model)
    assert model.config._attn_implementation == "eager"
