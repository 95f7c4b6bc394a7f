"""Embeddings are what transformers has behind its final norm, whatever else is in the batch."""

import numpy as np
import pytest
import torch
from gistserve.server.engine.request import Request, SamplingParams
from transformers import PreTrainedModel

from ...families import FAMILIES, tiny_model
from .engine_help import GREEDY, PROMPTS, Driver, generate, prompt


def embed(name: str, tokens: list[int], **fields) -> Request:
    return Request(name, tokens, embed=True, **fields)


@torch.no_grad()
def last_state(model: PreTrainedModel, tokens: list[int]) -> np.ndarray:
    """By transformers alone; OPT tells its final norm's output as the last hidden state, too."""
    states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[-1]
    return states[0, -1].numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_prompts_and_answers(family: str) -> None:
    model = tiny_model(family)
    expected = {name: last_state(model, tokens) for name, tokens in PROMPTS.items()}
    text = prompt(9)
    tokens = generate(model, text)
    driver = Driver(model, max_num_batched_tokens=16)  # prompts are cut into chunks
    driver.add(Request("chat", text, GREEDY))
    for name, ids in PROMPTS.items():
        driver.add(embed(name, ids, sampling=SamplingParams(max_tokens=0)))
    driver.run()
    driver.close()
    assert driver.tokens("chat") == tokens
    for name, vector in expected.items():
        (output,) = driver.outputs[name]
        assert output.embedding.dtype == np.float32
        np.testing.assert_allclose(output.embedding, vector, rtol=0, atol=1e-5)
        assert (output.finish_reason, output.num_output_tokens) == ("stop", 0)
        assert output.num_prompt_tokens == len(PROMPTS[name])


def test_the_head_computes_nothing_for_them() -> None:
    model = tiny_model("qwen3")
    driver = Driver(model)
    rows: list[int] = []
    model.lm_head.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[-2]))
    driver.add(embed("a", prompt(20), sampling=SamplingParams(max_tokens=0)))
    driver.run()
    driver.close()
    assert rows == [0]


def test_nothing_is_kept_and_nothing_kept_is_used() -> None:
    """With the prefix cache a request that came before would have computed the same tokens."""
    model = tiny_model("llama")
    driver = Driver(model)
    tokens = prompt(40)
    for name in ("first", "second"):
        driver.add(embed(name, tokens, sampling=SamplingParams(max_tokens=0)))
        driver.run()
    driver.add(Request("chat", tokens, GREEDY))
    driver.run()
    driver.add(embed("third", tokens, sampling=SamplingParams(max_tokens=0)))
    driver.run()
    for name in ("first", "second", "chat", "third"):
        assert driver.outputs[name][0].num_cached_tokens == 0, name
    stats = driver.core.stats()
    assert stats.num_free_blocks == stats.num_blocks
    driver.close()


def test_a_preempted_prompt_is_computed_again() -> None:
    model = tiny_model("llama")
    tokens, text = prompt(40), prompt(30)
    expected = last_state(model, tokens)
    # 16 blocks of 4: the answer grows while the long prompt is still being computed.
    driver = Driver(model, num_blocks=19, max_num_batched_tokens=4, max_num_seqs=2)
    driver.add(Request("chat", text, SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)))
    for _ in range(9):
        driver.step()
    driver.add(embed("long", tokens, sampling=SamplingParams(max_tokens=0)))
    driver.run()
    preemptions = driver.core.stats().num_preemptions
    driver.close()
    (output,) = driver.outputs["long"]
    np.testing.assert_allclose(output.embedding, expected, rtol=0, atol=1e-5)
    assert preemptions
