"""The compressor against plain transformers forwards."""

import pytest
import torch
from gistserve.compress.adapter import GistAdapter
from gistserve.compress.compressor import (
    DynamicCacheSession,
    GistCompressor,
    _chunks,
    check_gist_support,
)
from gistserve.compress.config import GistAdapterError, GistConfig
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from ..families import WINDOWED
from ..families import tiny_model as any_tiny_model
from .tiny_models import FAMILIES, randomise, tiny_model, windowed_model

PROMPT = [3, 17, 9, 41, 22, 8, 30, 5, 11, 60, 2]


def make(family: str, **config) -> tuple:
    model = tiny_model(family)
    settings = {"num_gist_tokens": 3, "sink_tokens": 2, "lora_rank": 4} | config
    adapter = randomise(GistAdapter.create(model, GistConfig(**settings)))
    return model, adapter, GistCompressor(model, adapter)


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_equals_single_and_chunked(family: str) -> None:
    model, _, compressor = make(family)
    prompts = [PROMPT, PROMPT[:4], PROMPT[2:9]]
    padded = torch.zeros(3, len(PROMPT), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = torch.tensor(prompt)
    states = compressor.compress_batch(padded, torch.tensor([len(p) for p in prompts]))
    for row, prompt in enumerate(prompts):
        single = compressor.compress(prompt)
        assert single.next_position == int(states.next_positions[row]) == len(prompt) + 3
        assert single.slots == states.slots == 5
        steps = compressor.compress_steps(prompt, DynamicCacheSession(model), chunk_size=3)
        yields = 0
        while True:
            try:
                next(steps)
                yields += 1
            except StopIteration as finished:
                chunked = finished.value
                break
        assert yields == -(-(len(prompt) + 1) // 3)  # sink, then ceil((m - 2 + 3) / 3) chunks
        for layer in range(len(states.keys)):
            for batch, one, steps_ in (
                (states.keys, single.keys, chunked.keys),
                (states.values, single.values, chunked.values),
            ):
                torch.testing.assert_close(
                    batch[layer][row].transpose(0, 1), one[layer], atol=1e-5, rtol=1e-5
                )
                torch.testing.assert_close(steps_[layer], one[layer], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_sinks_and_prefix_are_the_base_models_own(family: str) -> None:
    model, _, compressor = make(family)
    cache = DynamicCache()
    model(torch.tensor([PROMPT]), past_key_values=cache)
    gist, prefix = compressor.compress(PROMPT), compressor.compress(PROMPT, "prefix")
    assert prefix.slots == prefix.next_position == len(PROMPT)
    for layer, states in enumerate(cache.layers):
        expected = states.keys[0].transpose(0, 1)
        torch.testing.assert_close(prefix.keys[layer], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gist.keys[layer][:2], expected[:2], atol=1e-5, rtol=1e-5)


def test_without_lora_gists_are_the_models_kv_at_their_positions() -> None:
    model, adapter, compressor = make("llama", lora_rank=0)
    embeds = model.get_input_embeddings()(torch.tensor([PROMPT]))
    embeds = torch.cat([embeds, adapter.gist_embeddings[None]], 1)
    cache = DynamicCache()
    model(inputs_embeds=embeds, past_key_values=cache)
    gist = compressor.compress(PROMPT)
    for layer, states in enumerate(cache.layers):
        kept = states.values[0, :, [0, 1, 11, 12, 13]].transpose(0, 1)
        torch.testing.assert_close(gist.values[layer], kept, atol=1e-5, rtol=1e-5)


@given(st.integers(0, 6), st.integers(1, 40), st.one_of(st.none(), st.integers(1, 50)))
def test_chunks_cover_every_slot_once_and_never_mix(sink: int, rest: int, size: int | None) -> None:
    chunks = list(_chunks(sink, sink + rest, size))
    covered = [slot for start, stop, _ in chunks for slot in range(start, stop)]
    assert covered == list(range(sink + rest))
    for start, stop, gated in chunks:
        assert (start >= sink) if gated else (stop <= sink)
        assert size is None or stop - start <= size


def test_adapter_is_off_between_chunks_and_after() -> None:
    model, adapter, compressor = make("llama")
    ids = torch.tensor([PROMPT])
    before = model(ids).logits
    steps = compressor.compress_steps(PROMPT, DynamicCacheSession(model), chunk_size=4)
    for _ in steps:
        assert torch.equal(model(ids).logits, before)
    assert torch.equal(model(ids).logits, before)
    with adapter.applied(model):
        assert not torch.allclose(model(ids).logits, before)


def test_gradients_reach_every_part_that_acts() -> None:
    model, adapter, compressor = make("llama")
    states = compressor.compress_batch(torch.tensor([PROMPT]), torch.tensor([len(PROMPT)]))
    sum(key.square().sum() for key in states.keys + states.values).backward()
    assert adapter.gist_embeddings.grad.abs().sum() > 0
    idle = [lora.site for lora in adapter.loras if lora.a.grad is None]
    assert idle
    assert all(".layers.2." in site and "k_proj" not in site for site in idle)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("family", sorted(WINDOWED))
def test_sliding_windows_are_refused(family: str) -> None:
    model = windowed_model(family)
    with pytest.raises(GistAdapterError, match=r"sliding-window.*prefix"):
        check_gist_support(model)
    assert GistCompressor(model, None).compress(PROMPT, "prefix").slots == len(PROMPT)


def test_windows_that_no_position_reaches_do_no_harm() -> None:
    model = any_tiny_model("mistral", sliding_window=256)
    check_gist_support(model)
    model.config.max_position_embeddings = 257
    with pytest.raises(GistAdapterError, match="window 256"):
        check_gist_support(model)


def test_layers_that_keep_no_plain_cache_are_refused() -> None:
    model = tiny_model("llama")
    model.config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    with pytest.raises(GistAdapterError, match="linear_attention"):
        check_gist_support(model)
    model = tiny_model("llama")
    model.config.num_kv_shared_layers = 1
    with pytest.raises(GistAdapterError, match="shares keys and values"):
        check_gist_support(model)


def test_bad_prompts_and_states_are_refused() -> None:
    model, _, compressor = make("llama")
    with pytest.raises(ValueError, match="empty"):
        compressor.compress([])
    with pytest.raises(ValueError, match="sink"):
        compressor.compress([5])
    with pytest.raises(ValueError, match="at least 2"):
        compressor.compress_batch(torch.tensor([[5, 6]]), torch.tensor([1]))
    with pytest.raises(GistAdapterError, match="no gist adapter"):
        GistCompressor(model, None).compress(PROMPT)
    model.gradient_checkpointing_enable()
    with pytest.raises(GistAdapterError, match="gradient checkpointing"):
        compressor.compress_batch(torch.tensor([PROMPT]), torch.tensor([len(PROMPT)]))
