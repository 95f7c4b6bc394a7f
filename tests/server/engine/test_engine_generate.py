"""The engine as a function of prompts, against transformers' own generate."""

from types import SimpleNamespace

import pytest
import torch
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.engine_generate import engine_generate
from transformers import FalconConfig, FalconForCausalLM

from ...families import tiny_model
from .engine_help import generate, prompt

# Many begin alike: blocks are shared within a call and with the one before.
HEAD = prompt(40)
PROMPTS = [HEAD + prompt(length, seed=length) for length in (1, 3, 20)] + [prompt(5), HEAD[:7]]
SMALL = EngineConfig(num_blocks=64, max_num_seqs=3, max_model_len=128)


def drawing(count: int = 10, temperature: float = 0.0, seed: int = 0) -> SimpleNamespace:
    return SimpleNamespace(max_new_tokens=count, temperature=temperature, seed=seed)


def test_greedy_continuations_equal_those_of_transformers() -> None:
    model = tiny_model("llama")
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = None
    expected = [generate(model, tokens) for tokens in PROMPTS]
    with engine_generate(model, SMALL) as write:
        assert write is not None
        for _ in range(2):
            assert write(PROMPTS, drawing()) == expected
        assert write([], drawing()) == []
    # The model is given back: it can be used again.
    assert generate(model, PROMPTS[0]) == expected[0]


def test_an_end_token_is_the_last() -> None:
    model = tiny_model("llama")
    expected = [generate(model, tokens) for tokens in PROMPTS]
    end = expected[0][4]
    model.generation_config.eos_token_id = end
    with engine_generate(model, SMALL) as write:
        assert write is not None
        written = write(PROMPTS, drawing())
    for ids, whole in zip(written, expected, strict=True):
        assert ids == (whole[: whole.index(end) + 1] if end in whole else whole)
    assert len(written[0]) <= 5


def test_seeds_decide_what_is_drawn() -> None:
    with engine_generate(tiny_model("llama"), SMALL) as write:
        assert write is not None
        first = write([PROMPTS[0]] * 2, drawing(temperature=1.0, seed=4))
        assert first == write([PROMPTS[0]] * 2, drawing(temperature=1.0, seed=4))
        assert first[1:] == write([PROMPTS[0]], drawing(temperature=1.0, seed=5))
    assert first[0] != first[1]


def test_a_prompt_that_does_not_fit_is_told_and_nothing_is_left_behind() -> None:
    with engine_generate(tiny_model("llama"), SMALL) as write:
        assert write is not None
        with pytest.raises(ValueError, match="maximum context length is 128 tokens"):
            write([PROMPTS[0], prompt(200)], drawing())
        assert len(write([PROMPTS[0]], drawing())[0]) > 0


def test_a_class_that_the_engine_cannot_run() -> None:
    with torch.random.fork_rng():
        config = FalconConfig(
            vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
        )
        model = FalconForCausalLM(config)
    with engine_generate(model, SMALL) as write:
        assert write is None
