"""The compressor's session over pool blocks, and caches written into and read out of them."""

import pytest
import torch
from gistserve.compress.cache import GistCache
from gistserve.compress.compressor import DynamicCacheSession
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.model_runner import ModelRunner

from ...families import FAMILIES, VOCAB_SIZE, WINDOWED, tiny_model

CONFIG = EngineConfig(num_blocks=24, block_size=4)
BLOCKS = [7, 3, 20, 11, 5, 18]


def embeddings(model, length):
    tokens = torch.arange(length)[None] * 7 % (VOCAB_SIZE - 3) + 3
    with torch.no_grad():
        return model.get_input_embeddings()(tokens), torch.arange(length)[None] + 2


# transformers' own cache keeps the latents of deepseek_v3, the pool the heads made of them.
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - WINDOWED - {"deepseek_v3"}))
def test_fills_what_a_dynamic_cache_holds(family):
    model = tiny_model(family)
    embeds, positions = embeddings(model, 19)
    oracle = DynamicCacheSession(model)
    with torch.no_grad():
        oracle.append(embeds, positions)
    slots = [0, 5, 17, 18]
    expected = oracle.read(slots)
    runner = ModelRunner(model, CONFIG)
    session = runner.kv_session(BLOCKS)
    for start, stop in ((0, 1), (1, 12), (12, 19)):
        session.append(embeds[:, start:stop], positions[:, start:stop])
    for (key, value), (wanted_key, wanted_value) in zip(session.read(slots), expected, strict=True):
        assert torch.allclose(key, wanted_key, atol=1e-5)
        assert torch.allclose(value, wanted_value, atol=1e-5)
    runner.close()


def test_session_refuses_what_its_blocks_do_not_hold():
    model = tiny_model("llama")
    session = ModelRunner(model, CONFIG).kv_session(BLOCKS[:2])
    embeds, positions = embeddings(model, 9)
    with pytest.raises(ValueError, match="9 slots need 3 blocks"):
        session.append(embeds, positions)
    session.append(embeds[:, :3], positions[:, :3])
    with pytest.raises(ValueError, match="slots must lie in"):
        session.read([3])


def random_cache(runner, slots, **changes):
    specs = runner._bound.layer_specs
    shape = {"heads": specs[0].kv_heads, "key": specs[0].key_dim, "value": specs[0].value_dim}
    shape |= {"layers": len(specs), **changes}
    return GistCache.build(
        method="prefix",
        keys=[torch.randn(slots, shape["heads"], shape["key"]) for _ in range(shape["layers"])],
        values=[torch.randn(slots, shape["heads"], shape["value"]) for _ in range(shape["layers"])],
        prompt_token_ids=range(slots),
        model_fingerprint="x",
    )


def test_written_cache_is_read_back():
    runner = ModelRunner(tiny_model("deepseek_v3"), CONFIG)
    cache = random_cache(runner, 9)
    runner.write_cache(cache, BLOCKS)
    for layer, (key, value) in enumerate(runner.read_slots(BLOCKS, range(9))):
        assert torch.equal(key, cache.keys[layer]) and torch.equal(value, cache.values[layer])
        assert not key.is_inference() and not value.is_inference()
    beyond = runner.read_slots(BLOCKS, range(9, 24))
    assert all(not key.any() and not value.any() for key, value in beyond)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 2}, "2 layers"),
        ({"heads": 3}, "key in layer 0 has shape"),
        ({"value": 5}, "value in layer 0 has shape"),
    ],
)
def test_cache_of_another_shape_is_refused(changes, message):
    runner = ModelRunner(tiny_model("llama"), CONFIG)
    with pytest.raises(ValueError, match=message):
        runner.write_cache(random_cache(runner, 9, **changes), BLOCKS)
    with pytest.raises(ValueError, match="does not fit 2 blocks"):
        runner.write_cache(random_cache(runner, 9), BLOCKS[:2])
