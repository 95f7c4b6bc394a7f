"""Fingerprints: the same for the same model however it is loaded, another for any change."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from gistserve.compress import weights_hash as weights_module
from gistserve.compress.adapter import GistAdapter
from gistserve.compress.config import GistConfig
from gistserve.compress.errors import FingerprintError
from gistserve.compress.fingerprint import differing_parts, model_fingerprint, with_adapter
from gistserve.compress.weights_hash import hash_weight_files, weight_files, weights_hash
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS = {"[UNK]": 0, "hello": 1, "world": 2}


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_module, "user_cache_path", lambda _: tmp_path / "cache")


def llama(*, tied: bool = True, dtype: torch.dtype = torch.float32, **changes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": tied,
    }
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).to(dtype)


def word_tokenizer(words: dict[str, int] | None = None, template: str | None = None):
    backend = Tokenizer(WordLevel(words or WORDS, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", chat_template=template
    )


def age(folder: Path) -> None:
    """Pretend that the weights were written an hour ago (their change time cannot be set)."""
    for file in weight_files(folder):
        os.utime(file, (time.time() - 3600,) * 2)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_hash_is_the_same_for_files_and_memory(tmp_path, tied, dtype):
    model = llama(tied=tied, dtype=dtype)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="4KB")
    assert len(weight_files(tmp_path / "many")) > 1
    hashes = {
        weights_hash(model),
        hash_weight_files(tmp_path / "one"),
        hash_weight_files(tmp_path / "many"),
    }
    assert len(hashes) == 1


def test_every_bit_of_every_weight_counts():
    model = llama()
    before = weights_hash(model)
    for parameter in model.parameters():
        bits = parameter.data.view(torch.int32).reshape(-1)
        bits[-1] ^= 1
        assert weights_hash(model) != before
        bits[-1] ^= 1
    assert weights_hash(model) == before


def test_using_a_model_does_not_change_its_hash():
    model = llama()
    before = weights_hash(model)
    model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    model.generate(torch.arange(4)[None], max_new_tokens=2)
    assert weights_hash(model) == before


def test_equal_bytes_in_another_shape_or_dtype_or_name_differ():
    def module(name: str, tensor: torch.Tensor) -> torch.nn.Module:
        holder = torch.nn.Module()
        holder.register_buffer(name, tensor)
        return holder

    zeros = torch.zeros(4, dtype=torch.float16)
    hashes = {
        weights_hash(module("a", zeros)),
        weights_hash(module("a", zeros.reshape(2, 2))),
        weights_hash(module("a", zeros.bfloat16())),
        weights_hash(module("b", zeros)),
    }
    assert len(hashes) == 4


def test_large_and_strided_tensors_are_hashed_by_their_elements(monkeypatch):
    holder = torch.nn.Module()
    holder.register_buffer("x", torch.randn(6, 5))
    whole = weights_hash(holder)
    monkeypatch.setattr(weights_module, "_CHUNK_ELEMENTS", 7)
    assert weights_hash(holder) == whole
    holder.x = holder.x.t().contiguous().t()
    assert not holder.x.is_contiguous()
    assert weights_hash(holder) == whole


def test_weights_without_data_are_refused():
    with torch.device("meta"):
        model = torch.nn.Linear(2, 2)
    with pytest.raises(FingerprintError, match="meta"):
        weights_hash(model)


def test_file_hash_is_remembered_until_a_file_changes(tmp_path, monkeypatch):
    llama().save_pretrained(tmp_path / "model")
    age(tmp_path / "model")
    monkeypatch.setattr(weights_module, "_RACY_SECONDS", -1.0)
    calls = []
    real = weights_module._hash_files
    monkeypatch.setattr(weights_module, "_hash_files", lambda f: calls.append(f) or real(f))
    first = hash_weight_files(tmp_path / "model")
    assert hash_weight_files(tmp_path / "model") == first
    assert len(calls) == 1
    file = weight_files(tmp_path / "model")[0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    modified = file.stat().st_mtime_ns
    file.write_bytes(content)
    os.utime(file, ns=(modified, modified))
    assert hash_weight_files(tmp_path / "model") != first
    assert len(calls) == 2


def test_a_file_just_written_is_not_remembered(tmp_path):
    llama().save_pretrained(tmp_path / "model")
    hash_weight_files(tmp_path / "model")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("garbage", ["", "{}", '{"weights": 5}', "not json"])
def test_a_broken_memory_of_hashes_is_ignored(tmp_path, monkeypatch, garbage):
    llama().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(weights_module, "_RACY_SECONDS", -1.0)
    right = hash_weight_files(tmp_path / "model")
    (memory,) = (tmp_path / "cache" / "fingerprints").iterdir()
    memory.write_text(garbage)
    assert hash_weight_files(tmp_path / "model") == right


def test_a_memory_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    llama().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(weights_module, "_RACY_SECONDS", -1.0)
    (tmp_path / "file").write_text("")
    found = hash_weight_files(tmp_path / "model", cache_directory=tmp_path / "file")
    assert found == weights_hash(llama())


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(FingerprintError, match="neither a folder nor"):
        hash_weight_files(tmp_path / "nowhere")
    with pytest.raises(FingerprintError, match="holds no weights"):
        hash_weight_files(tmp_path)
    llama().save_pretrained(tmp_path / "model")
    file = weight_files(tmp_path / "model")[0]
    whole = file.read_bytes()
    for length in (0, 5, 60, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(FingerprintError, match=r"model\.safetensors is"):
            hash_weight_files(tmp_path / "model")


def test_fingerprint_does_not_depend_on_the_dtype_loaded_in(tmp_path):
    llama().save_pretrained(tmp_path / "model")
    fingerprints = set()
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=dtype)
        fingerprints.add(model_fingerprint(model, source=tmp_path / "model"))
    assert len(fingerprints) == 1


def test_fingerprint_survives_saving_moving_and_using(tmp_path):
    model, tokenizer = llama(), word_tokenizer(template="{{ messages }}")
    before = model_fingerprint(model, tokenizer)
    model.save_pretrained(tmp_path / "a")
    tokenizer.save_pretrained(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path / "b")
    again.pad_token = "[UNK]"
    again(["hello", "hello world"], padding=True, truncation=True, max_length=2)
    loaded.config.use_cache = False
    loaded.config.pad_token_id = 0
    loaded.set_attn_implementation("eager")
    loaded.generate(torch.arange(1, 4)[None], max_new_tokens=2)
    assert model_fingerprint(loaded, again) == before
    assert model_fingerprint(loaded, again, source=tmp_path / "b") == before


def test_a_new_unused_config_field_changes_nothing():
    model = llama()
    before = model_fingerprint(model)
    model.config.some_new_feature = None
    model.config.another_feature = False
    assert model_fingerprint(model) == before
    model.config.some_new_feature = 3
    assert differing_parts(before, model_fingerprint(model)) == ["config"]


def trained(adapter: GistAdapter) -> GistAdapter:
    with torch.no_grad():
        adapter.gist_embeddings[0, 0] += 1
    return adapter


def adapter_for(model: LlamaForCausalLM, **changes) -> GistAdapter:
    return GistAdapter.create(model, GistConfig(num_gist_tokens=2, lora_rank=2, **changes))


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("rope", {"model": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}}),
        ("rope", {"model": {"max_position_embeddings": 77}}),
        ("config", {"model": {"rms_norm_eps": 1e-3}}),
        ("tokenizer", {"words": {"[UNK]": 0, "hello": 2, "world": 1}}),
        ("chat_template", {"template": "{{ messages[0] }}"}),
    ],
)
def test_the_part_that_differs_is_named(part, change):
    def fingerprint(model=None, words=None, template="{{ messages }}"):
        return model_fingerprint(llama(**(model or {})), word_tokenizer(words, template))

    assert differing_parts(fingerprint(), fingerprint(**change)) == [part]


def test_adapters_count_by_weights_and_layout_not_by_metrics():
    model = llama()
    base = model_fingerprint(model)
    plain = with_adapter(base, adapter_for(model))
    assert plain == model_fingerprint(model, adapter=adapter_for(model))
    assert differing_parts(base, plain) == ["adapter"]
    assert with_adapter(plain, None) == base
    described = adapter_for(model, metrics={"loss": 1.0}, training={"steps": 5}, base_model="x")
    assert with_adapter(base, described) == plain
    others = {
        with_adapter(base, trained(adapter_for(model))),
        with_adapter(base, adapter_for(model, sink_tokens=3)),
        with_adapter(base, adapter_for(model, lora_alpha=8.0)),
        with_adapter(base, adapter_for(model, target_modules=["v_proj"])),
    }
    assert len(others | {plain}) == 5


def test_a_saved_adapter_keeps_its_fingerprint(tmp_path):
    model = llama()
    base = model_fingerprint(model)
    adapter = trained(adapter_for(model))
    adapter.save(tmp_path / "adapter")
    assert with_adapter(base, GistAdapter.load(tmp_path / "adapter")) == with_adapter(base, adapter)


def test_malformed_fingerprints():
    with pytest.raises(FingerprintError, match="not a model fingerprint"):
        with_adapter("abc", None)
    assert differing_parts("abc", "abc") == []
    assert "weights" in differing_parts("abc", model_fingerprint(llama()))


def test_a_fingerprint_is_one_short_line():
    fingerprint = model_fingerprint(llama(), word_tokenizer())
    assert len(fingerprint) < 200
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert "," in fingerprint and " " not in fingerprint
