"""Sparse checkpoints behind the engine: the tokens of the dense twin, fingerprints, gists."""

import pytest
import torch
from gistserve.compress import weights_hash as weights_module
from gistserve.compress.fingerprint import differing_parts, model_fingerprint
from gistserve.compress.sparse import save_sparse, sparse_modules, sparsify
from gistserve.compress.weights_hash import weights_hash
from gistserve.server.engine.loader import load_model
from gistserve.server.engine.request import Request

from ...chat_model import byte_tokenizer
from ...families import tiny_model
from ...server.engine.engine_help import (
    GREEDY,
    Driver,
    generate,
    gist_by_hand,
    make_adapter,
    prompt,
)
from .sparse_models import sparse_checkpoint

LENGTHS = (1, 6, 23)


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_module, "user_cache_path", lambda _: tmp_path / "cache")


def served(model, adapter=None):
    """Greedy tokens through the engine's steps, all prompts in one batch."""
    driver = Driver(model, adapter)
    try:
        for length in LENGTHS:
            driver.add(Request(str(length), prompt(length), GREEDY))
        driver.run()
        return [driver.tokens(str(length)) for length in LENGTHS]
    finally:
        driver.close()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "phi3"])
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_served_tokens_are_those_of_the_dense_masked_twin(tmp_path, family, sparsity):
    twin = sparse_checkpoint(
        tmp_path / "model", family, sparsity=sparsity, tokenizer=byte_tokenizer()
    )
    model, _ = load_model(tmp_path / "model", device="cpu")
    assert sparse_modules(model)
    assert served(model) == [generate(twin, prompt(length)) for length in LENGTHS]


@pytest.mark.parametrize(("pattern", "sparsity"), [("balanced", 0.8), ("2:4", 0.5)])
def test_patterns_are_served(tmp_path, pattern, sparsity):
    twin = tiny_model("llama", hidden_size=64, intermediate_size=600)
    recipe = sparsify(twin, sparsity=sparsity, pattern=pattern)
    save_sparse(twin, tmp_path / "model", recipe, tokenizer=byte_tokenizer())
    model, _ = load_model(tmp_path / "model", device="cpu")
    assert served(model) == [generate(twin, prompt(length)) for length in LENGTHS]


def test_the_loader_gives_layers_that_are_ready(tmp_path):
    sparse_checkpoint(tmp_path / "model", tokenizer=byte_tokenizer())
    model, _ = load_model(tmp_path / "model", torch.bfloat16, "cpu")
    before = weights_hash(model)
    assert model.dtype == torch.bfloat16
    assert not model.training
    served(model)
    assert weights_hash(model) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fingerprints_are_of_what_is_stored(tmp_path, dtype):
    twin = tiny_model("llama").to(dtype)
    recipe = sparsify(twin, sparsity=0.9)
    save_sparse(twin, tmp_path / "model", recipe, tokenizer=byte_tokenizer())
    model, tokenizer = load_model(tmp_path / "model", device="cpu")
    in_memory = model_fingerprint(model, tokenizer)
    assert in_memory == model_fingerprint(model, tokenizer, source=tmp_path / "model")
    model.save_pretrained(tmp_path / "again")
    assert in_memory == model_fingerprint(model, tokenizer, source=tmp_path / "again")

    with torch.no_grad():  # one bit of one stored value
        weight = twin.get_submodule("model.layers.1.mlp.up_proj").weight
        weight[weight != 0] *= 1.5
    save_sparse(twin, tmp_path / "other", recipe, tokenizer=byte_tokenizer())
    other = model_fingerprint(load_model(tmp_path / "other", device="cpu")[0], tokenizer)
    assert differing_parts(in_memory, other) == ["weights"]


def test_the_same_zeros_made_otherwise_have_the_same_fingerprint(tmp_path):
    twin = tiny_model("llama")
    recipe = sparsify(twin, sparsity=0.9)
    save_sparse(twin, tmp_path / "one", recipe, tokenizer=byte_tokenizer())
    other = type(recipe)(method="another", modules=recipe.modules)
    save_sparse(twin, tmp_path / "two", other, tokenizer=byte_tokenizer())
    prints = {model_fingerprint(*load_model(tmp_path / n, device="cpu")) for n in ("one", "two")}
    assert len(prints) == 1


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_gist_adapters_work_over_sparse_layers(tmp_path, family):
    twin = sparse_checkpoint(tmp_path / "model", family, tokenizer=byte_tokenizer())
    model, _ = load_model(tmp_path / "model", device="cpu")
    adapter = make_adapter(model)
    assert {lora.site for lora in adapter.loras} == {
        lora.site for lora in make_adapter(twin.requires_grad_(False)).loras
    }
    ids = prompt(12)
    with torch.inference_mode():
        by_sparse = gist_by_hand(model, adapter, ids)
        by_twin = gist_by_hand(twin, adapter, ids)
    for a, b in zip(by_sparse.keys + by_sparse.values, by_twin.keys + by_twin.values, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    adapter.save(tmp_path / "adapter")
    loaded = type(adapter).load(tmp_path / "adapter")
    with loaded.applied(model):
        pass
