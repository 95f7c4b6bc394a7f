"""Continuations by a transformers model, against its forward pass."""

from typing import Any

import pytest
import torch
from gistserve.training.generate import SamplingSettings, TransformersGenerate, until_end
from transformers import LlamaConfig, LlamaForCausalLM

WORDS, END = 10, 3
PROMPTS = [[1, 2, 4, 5], [6], [7, 8], [9, 1, 1]]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.6,
    )
    return LlamaForCausalLM(config).train()


def greedy(model: LlamaForCausalLM, prompt: list[int], most: int) -> list[int]:
    written: list[int] = []
    while len(written) < most and END not in written:
        logits = model(torch.tensor([prompt + written])).logits[0, -1]
        written.append(int(logits.argmax()))
    return written


def test_the_likeliest_tokens(model: LlamaForCausalLM) -> None:
    """In any batch, with the end token, and in the order of the prompts."""
    generate = TransformersGenerate(model, {END}, pad_id=END, batch_size=3)
    written = generate(PROMPTS, SamplingSettings(12, temperature=0))
    assert written == [greedy(model, prompt, 12) for prompt in PROMPTS]
    assert model.training


def test_tokens_are_drawn_from_the_whole_distribution(model: LlamaForCausalLM) -> None:
    """At the temperature; whatever the model's own settings for generation are."""
    model.generation_config.update(top_k=1, repetition_penalty=5.0)
    count, temperature = 3000, 2.0
    settings = SamplingSettings(1, temperature, seed=4)
    drawn = TransformersGenerate(model, {END}, batch_size=count)([PROMPTS[0]] * count, settings)
    shares = torch.bincount(torch.tensor([ids[0] for ids in drawn]), minlength=WORDS) / count
    with torch.no_grad():
        logits = model(torch.tensor([PROMPTS[0]])).logits[0, -1]
    expected = (logits / temperature).softmax(-1)
    torch.testing.assert_close(shares, expected, atol=0.04, rtol=0)
    assert model.generation_config.top_k == 1


def test_a_seed_draws_the_same(model: LlamaForCausalLM) -> None:
    generate = TransformersGenerate(model, {END})
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, again, other = (generate(PROMPTS, SamplingSettings(8, seed=s)) for s in (5, 5, 6))
    assert first == again != other
    assert torch.equal(before, torch.random.get_rng_state())


def test_until_end() -> None:
    assert until_end([1, 2, 3, 4, 3], {3, 4}) == [1, 2, 3]
    assert until_end([1, 2], {3}) == [1, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"max_new_tokens": 0}, "max_new_tokens"), ({"temperature": -1.0}, "temperature")],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message} must be at least"):
        SamplingSettings(**({"max_new_tokens": 3} | settings))
