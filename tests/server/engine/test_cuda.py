"""What only a GPU can show: captured steps, waits for the device, and memory as it is."""

import logging
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.host_sync import find_host_sync
from gistserve.server.engine.memory_profile import full_step
from gistserve.server.engine.model_runner import ModelRunner
from gistserve.server.engine.request import Request, SamplingParams
from gistserve.server.engine.sampler import Sampler
from gistserve.server.engine.sequence import Sequence

from ...families import FAMILIES, tiny_model
from .engine_help import GREEDY, PROMPTS, Driver, generate_behind, random_cache, reference
from .test_model_runner import CONFIG, sequences, step

pytestmark = pytest.mark.gpu

# A mixture's experts run through torch's grouped product, which can be captured in bfloat16 only.
MIXTURES = {"qwen3_moe", "mixtral", "gpt_oss", "deepseek_v3"}


@contextmanager
def no_waiting():
    """A RuntimeError for whatever makes the host wait, but for the wait on an event."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_which_models_are_captured(family, dtype, caplog):
    model = tiny_model(family).to("cuda", dtype)
    with caplog.at_level(logging.WARNING):
        runner = ModelRunner(model, EngineConfig(num_blocks=8, max_num_seqs=3))
    eager = dtype == torch.float32 and family in MIXTURES
    assert runner.captured_sizes == ([] if eager else [1, 2, 3]), caplog.text
    runner.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_captured_steps_give_what_eager_ones_give(family):
    logits = []
    for eager in (True, False):
        model = tiny_model(family).to("cuda", torch.bfloat16)
        runner = ModelRunner(model, replace(CONFIG, max_num_seqs=4, enforce_eager=eager))
        assert runner.captured_sizes == ([] if eager else [1, 2, 4])
        seqs = sequences([9, 14, 6])
        step(runner, [(seq, len(seq.token_ids) - 1) for seq in seqs])
        step(runner, [(seq, 1) for seq in seqs])
        logits.append(torch.stack([seq.logits[-1] for seq in seqs]).float())
        runner.close()
    assert (logits[1] - logits[0]).norm() < 2e-2 * logits[0].norm()


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_compiled_layers_in_captured_steps(family):
    driver = Driver(tiny_model(family).to("cuda"), max_num_seqs=4, compile=True)
    assert driver.core.runner.captured_sizes == [1, 2, 4]
    for name, prompt in PROMPTS.items():
        driver.add(Request(name, prompt, GREEDY))
    driver.run()
    assert {name: driver.tokens(name) for name in PROMPTS} == reference(family)
    driver.close()


def test_gists_on_captured_steps():
    model = tiny_model("llama")
    cache = random_cache(model, 6, 91)
    expected = generate_behind(model, cache, PROMPTS["p17"])
    driver = Driver(model.to("cuda"), max_num_seqs=4)
    assert driver.core.runner.captured_sizes
    driver.add(Request("gist", PROMPTS["p17"], GREEDY, driver.core.pin(cache)))
    driver.add(Request("plain", PROMPTS["p34"], GREEDY))
    driver.run()
    assert driver.tokens("gist") == expected
    driver.close()


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0},
        {"temperature": 0.8, "seed": 3},
        {"top_p": 0.9, "top_k": 20, "min_p": 0.01},
        {"logprobs": 3, "presence_penalty": 0.5, "logit_bias": {5: 2.0}, "min_tokens": 30},
    ],
    ids=str,
)
@pytest.mark.parametrize("eager", [False, True])
def test_a_step_waits_for_its_tokens_alone(sampling, eager):
    driver = Driver(tiny_model("llama").to("cuda"), max_num_seqs=4, enforce_eager=eager)
    params = SamplingParams(max_tokens=40, ignore_eos=True, stop_token_ids=(2,), **sampling)
    for name in ("p3", "p17"):
        driver.add(Request(name, PROMPTS[name], params))
    driver.run()  # kernels are compiled now, for all the shapes to come
    for name in ("p3", "p17"):
        driver.add(Request(f"{name}-again", PROMPTS[name], params))
    with no_waiting():
        driver.run()
    assert len(driver.tokens("p3-again")) == 40
    driver.close()


def test_tokens_are_drawn_as_on_the_cpu():
    """Also where a nucleus is wider than the candidates that are looked at first."""
    params = [
        {"top_p": 0.9, "seed": 1},
        {"top_p": 0.2, "top_k": 40},
        {"temperature": 0, "logprobs": 2},
        {"presence_penalty": 1.5, "repetition_penalty": 1.2, "min_p": 0.01},
        {"temperature": 3.0, "top_p": 0.99, "logit_bias": {7: 3.0}},
    ]
    draws = []
    for device in ("cpu", "cuda"):
        sampler = Sampler(seed=3)
        sequences = [Sequence(Request(str(p), [1, 2], SamplingParams(**p)), 100) for p in params]
        draws.append([])
        for step_index in range(20):
            generator = torch.Generator().manual_seed(step_index)
            logits = torch.randn(len(params), 20_000, generator=generator) * 2
            sampled = sampler.sample(logits.to(device), sequences)
            draws[-1].append(sampled.token_ids)
            for sequence, token in zip(sequences, sampled.token_ids, strict=True):
                sequence.token_ids.append(token)
    assert draws[0] == draws[1]


def test_waiting_otherwise_is_an_error():
    with no_waiting(), pytest.raises(RuntimeError, match=r"(?i)synchroniz"):
        torch.ones(1, device="cuda").item()


def test_a_forward_that_waits_is_found():
    device = torch.device("cuda")
    values = torch.ones(3, device=device)
    assert find_host_sync(lambda: values.cpu()) is not None
    assert find_host_sync(lambda: torch.zeros(3).to(device)) is not None
    assert find_host_sync(lambda: values * 2) is None


@pytest.mark.parametrize("eager", [False, True])
def test_memory_stays_within_its_share(eager):
    """A pool as large as memory allows, and then the steps that it left room for."""
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    share = (total - free) / total + 0.05
    model = tiny_model("llama", max_position_embeddings=2**20).to(device, torch.bfloat16)
    config = EngineConfig(
        max_num_seqs=64,
        max_num_batched_tokens=1024,
        gpu_memory_utilization=share,
        enforce_eager=eager,
    )
    runner = ModelRunner(model, config)
    assert runner.num_blocks < 64 * 2**16, "the pool is not as large as memory allows"
    runner.execute(full_step(config, runner.max_model_len))
    torch.cuda.synchronize()
    free, _ = torch.cuda.mem_get_info(device)
    used = total - free
    assert 0.95 * share * total < used < 1.01 * share * total
    runner.close()


def test_a_device_without_room_is_refused():
    model = tiny_model("llama").to("cuda")
    with pytest.raises(ValueError, match="no memory is left"):
        ModelRunner(model, EngineConfig(gpu_memory_utilization=0.001))
    assert model.config._attn_implementation == "eager"
