"""Prompts that are timed run together, and go on where they ended."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from gistserve.bench.engine.driver import EngineDriver
from gistserve.bench.gpu.model_shapes import TINY
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.engine import Engine
from transformers import AutoModelForCausalLM, PreTrainedModel

BATCH, CONTEXT, STEPS = 3, 32, 6


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(TINY.config(128)).eval()


@pytest.fixture(scope="module")
def first_tokens(model: PreTrainedModel) -> list[int]:
    """What transformers itself draws behind the prompts."""
    with torch.no_grad():
        logits = model(torch.tensor(prompts()), logits_to_keep=1).logits[:, -1]
    drawn: list[int] = logits.argmax(-1).tolist()
    return drawn


@pytest.fixture
def engine(model: PreTrainedModel) -> Iterator[Engine]:
    engine = Engine(model, EngineConfig(num_blocks=32, max_num_seqs=BATCH, max_model_len=128))
    engine.start()
    yield engine
    engine.shutdown()


def prompts() -> list[list[int]]:
    drawn: list[list[int]] = np.random.default_rng(0).integers(0, 64, (BATCH, CONTEXT)).tolist()
    return drawn


def test_prompts_are_computed_in_one_step_and_decoding_computes_none_again(
    first_tokens: list[int], engine: Engine
) -> None:
    driver = EngineDriver(engine)
    prefill = driver.prefill(prompts())
    assert prefill.steps == 1
    assert prefill.seconds > 0
    assert prefill.first_tokens == first_tokens

    before = engine.stats()
    behind = [
        [*prompt, token] for prompt, token in zip(prompts(), prefill.first_tokens, strict=True)
    ]
    decode = driver.decode(behind, STEPS)
    after = engine.stats()
    assert after.prefix_cache_hits - before.prefix_cache_hits == BATCH * CONTEXT
    # One step of the request that starts the others, one of the prompts' last tokens.
    assert after.num_steps - before.num_steps == STEPS + 2
    assert STEPS - 1 <= len(decode.step_ms) <= STEPS
    assert all(ms > 0 for ms in decode.step_ms)
    assert decode.seq_lens[0] == CONTEXT + 2
    assert len(decode.seq_lens) == len(decode.step_ms)


def test_more_than_a_step_takes_is_counted_in_steps(model: PreTrainedModel) -> None:
    config = EngineConfig(
        num_blocks=32, max_num_seqs=BATCH, max_model_len=128, max_num_batched_tokens=CONTEXT
    )
    engine = Engine(model, config)
    engine.start()
    try:
        assert EngineDriver(engine).prefill(prompts()).steps >= BATCH
    finally:
        engine.shutdown()


def test_a_prompt_that_does_not_fit_fails_and_does_not_wait(engine: Engine) -> None:
    with pytest.raises(RuntimeError, match="maximum context length"):
        EngineDriver(engine).prefill([[1] * 200])
