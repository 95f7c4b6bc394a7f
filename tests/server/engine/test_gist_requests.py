"""Requests behind pinned caches against direct forwards with explicit positions."""

from concurrent.futures import Future

import pytest
import torch
from gistserve.compress.compressor import GistCompressor
from gistserve.server.engine.request import Request

from ...families import FAMILIES, WINDOWED, tiny_model
from .engine_help import (
    GREEDY,
    PROMPTS,
    Driver,
    as_engine_keeps,
    generate,
    generate_behind,
    gist_by_hand,
    make_adapter,
    prompt,
    random_cache,
    reference,
)

UNWINDOWED = [family for family in FAMILIES if family not in WINDOWED]
POLICY = prompt(23, seed=5)


@pytest.mark.parametrize("family", UNWINDOWED)
def test_gists_mixed_with_ordinary_requests(family):
    model = tiny_model(family)
    caches = {"whole": random_cache(model, 8, 40), "partial": random_cache(model, 6, 91)}
    expected = {
        (kind, name): generate_behind(model, cache, PROMPTS[name])
        for kind, cache in caches.items()
        for name in ("p3", "p17")
    }
    driver = Driver(model, max_num_batched_tokens=19)
    pins = {kind: driver.core.pin(as_engine_keeps(model, c)) for kind, c in caches.items()}
    used = driver.core.scheduler.pool.num_used
    for tag in ("", "-again"):  # the second time with prefix hits behind the pins
        for name, tokens in PROMPTS.items():
            driver.add(Request(f"{name}{tag}", tokens, GREEDY))
            for kind, pinned in pins.items():
                if (kind, name) in expected:
                    driver.add(Request(f"{kind}-{name}{tag}", tokens, GREEDY, pinned))
        driver.run()
        for (kind, name), tokens in expected.items():
            assert driver.tokens(f"{kind}-{name}{tag}") == tokens
        for name, tokens in reference(family).items():
            assert driver.tokens(f"{name}{tag}") == tokens
    last = driver.outputs["partial-p17-again"][-1]
    assert (last.num_prompt_tokens, last.num_gist_slots) == (91 + 17, 6)
    assert last.num_cached_tokens == 91 + 14  # 2 in the copied block, then three blocks of four
    assert driver.core.scheduler.pool.num_used == used == 4
    driver.close()


@pytest.mark.parametrize(
    ("family", "method"),
    [
        (family, method)
        for family in ("llama", "qwen3", "olmo2", "gpt2", "deepseek_v3")
        for method in ("gist", "prefix")
    ],
)
def test_compressed_in_the_engine_and_used_there(family, method):
    """Compression in chunks between the steps of running requests."""
    plain, model = tiny_model(family), tiny_model(family)
    adapter = make_adapter(plain)
    if method == "gist":
        expected_cache = gist_by_hand(plain, adapter, POLICY)
    else:
        expected_cache = GistCompressor(plain, None).compress(POLICY, method)
    driver = Driver(model, adapter, compress_chunk_size=5)
    driver.add(Request("before", PROMPTS["p34"], GREEDY))
    driver.step()
    future: Future = Future()
    driver.core.compressions.add(POLICY, method, future)
    steps = 0
    while not future.done():
        assert len(driver.step()) == 1, "the running request stood still"
        steps += 1
    assert steps == (6 if method == "gist" else 5)  # the sink's chunk and 24 / 5; 23 / 5
    cache = future.result()
    wanted = as_engine_keeps(plain, expected_cache)
    for ours, theirs in ((cache.keys, wanted.keys), (cache.values, wanted.values)):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    pinned = driver.core.pin(cache)
    driver.add(Request("behind", PROMPTS["p17"], GREEDY, pinned))
    driver.run()
    assert driver.tokens("before") == reference(family)["p34"]
    assert driver.tokens("behind") == generate_behind(plain, expected_cache, PROMPTS["p17"])
    if method == "prefix":
        assert driver.tokens("behind") == generate(plain, POLICY + PROMPTS["p17"])
    assert driver.core.scheduler.pool.num_used == -(-cache.slots // 4)
    driver.close()


@pytest.mark.parametrize("family", sorted(WINDOWED))
def test_windowed_models_serve_prefix_caches(family):
    plain, model = tiny_model(family), tiny_model(family)
    driver = Driver(model)
    cache = GistCompressor(plain, None).compress(POLICY, "prefix")
    driver.add(Request("r", PROMPTS["p17"], GREEDY, driver.core.pin(cache)))
    driver.run()
    assert driver.tokens("r") == generate(plain, POLICY + PROMPTS["p17"])
    driver.close()


def test_latents_of_a_dynamic_cache_are_refused():
    """What transformers itself caches for deepseek_v3 is not what the engine keeps."""
    model = tiny_model("deepseek_v3")
    latents = gist_by_hand(model, make_adapter(model), POLICY)
    driver = Driver(model)
    with pytest.raises(ValueError, match=r"key in layer 0 has shape \[5, 1, 16\].*\[5, 4, 24\]"):
        driver.core.pin(latents)
    assert driver.core.scheduler.pool.num_used == 0
    driver.close()
