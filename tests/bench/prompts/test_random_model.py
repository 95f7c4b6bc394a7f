"""Folders made for speed alone: they load, and the adapter fits its model."""

from pathlib import Path

import pytest
import torch
from gistserve.bench.gpu.model_shapes import ModelShape
from gistserve.bench.load.errors import LoadError
from gistserve.bench.prompts import model_choice
from gistserve.bench.prompts.model_choice import choose_model
from gistserve.bench.prompts.settings import Labelled, ServerSettings
from gistserve.compress.adapter import GistAdapter
from gistserve.compress.fingerprint import differing_parts, model_fingerprint
from gistserve.server.demo import EMBEDDED_MODEL
from gistserve.server.engine.loader import load_model

TINY = ModelShape("tiny", 32, 48, 2, 4, 2, 16, 49_152, tied_head=True)


def test_random_weights_come_with_an_untrained_adapter_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(model_choice.SHAPES, "135m", TINY)
    before = torch.random.get_rng_state()
    chosen = choose_model(
        "embedded",
        tmp_path,
        random_shape="135m",
        adapter=None,
        untrained_gists=3,
        dtype="bfloat16",
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not chosen.trained
    assert chosen.labelled(None, {}, 5, 0) == ()
    with pytest.raises(LoadError, match="random weights of 135m has no quality"):
        chosen.labelled("inputs.jsonl", {}, 5, 0)
    model, tokenizer = load_model(chosen.model, None, "cpu")
    assert model.dtype == torch.bfloat16
    assert model.config.num_hidden_layers == 2
    assert tokenizer.chat_template
    assert chosen.adapter is not None
    adapter = GistAdapter.load(chosen.adapter)
    assert adapter.config.num_gist_tokens == 3
    base = model_fingerprint(model, tokenizer, source=chosen.model)
    assert not differing_parts(adapter.config.base_fingerprint, base)
    settings = ServerSettings(chosen.model, chosen.adapter, kv_cache_memory="1GiB")
    words = settings.arguments("name", tmp_path / "store")
    assert words[words.index("--kv-cache-memory") + 1] == "1GiB"
    assert words[words.index("--gist-adapter") + 1] == str(chosen.adapter)
    assert "--no-prefix-caching" in words


def test_the_embedded_model_brings_adapter_and_inputs(tmp_path: Path) -> None:
    chosen = choose_model(
        "embedded", tmp_path, random_shape=None, adapter=None, untrained_gists=None, dtype="auto"
    )
    assert chosen.trained
    assert chosen.adapter == EMBEDDED_MODEL / "gist_adapter"
    inputs = chosen.labelled(None, {}, 4, 0)
    assert len({row.prompt for row in inputs}) == 4
    assert inputs == chosen.labelled(None, {}, 4, 0) != chosen.labelled(None, {}, 4, 1)
    place = tmp_path / "rows.jsonl"
    place.write_text('{"prompt": "p", "input": "i", "expected": "e"}')
    assert chosen.labelled(str(place), {}, 4, 0) == [Labelled("p", "i", "e")]


def test_an_adapter_and_random_weights_exclude_each_other(tmp_path: Path) -> None:
    for shape, gists in (("135m", None), (None, 4)):
        with pytest.raises(LoadError, match="--adapter is trained for one model"):
            choose_model(
                "embedded",
                tmp_path,
                random_shape=shape,
                adapter=tmp_path,
                untrained_gists=gists,
                dtype="auto",
            )
