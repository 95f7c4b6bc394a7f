"""GistCache: what it holds, that a file gives back the same, and that nothing broken loads."""

import errno
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gistserve.compress.cache import GistCache, GistManifest, LayerShape, hash_tokens, read_manifest
from gistserve.compress.errors import GistCacheError
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

PROMPT = list(range(100, 140))


def gist_cache(dtype: torch.dtype = torch.float32, seed: int = 0) -> GistCache:
    """Two layers of unlike shapes: one raw sink slot and four gist slots for 40 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def draw(heads: int, dim: int) -> torch.Tensor:
        return torch.randn(5, heads, dim, generator=generator).to(dtype)

    return GistCache.build(
        method="gist",
        keys=[draw(2, 8), draw(1, 6)],
        values=[draw(2, 8), draw(1, 4)],
        prompt_token_ids=PROMPT,
        model_fingerprint="model-a",
        sink_tokens=1,
        gist_tokens=4,
    )


def same(left: GistCache, right: GistCache) -> bool:
    pairs = zip((*left.keys, *left.values), (*right.keys, *right.values), strict=True)
    return left.manifest == right.manifest and all(torch.equal(a, b) for a, b in pairs)


def test_build_derives_sizes_of_a_gist():
    manifest = gist_cache().manifest
    assert (manifest.slots, manifest.prompt_tokens, manifest.next_position) == (5, 40, 44)
    assert manifest.layers == (LayerShape(2, 8, 8), LayerShape(1, 6, 4))
    assert manifest.num_layers == 2
    assert manifest.ratio == 8.0
    assert manifest.prompt_hash == hash_tokens(PROMPT)


def test_build_derives_sizes_of_a_prefix():
    key = torch.zeros(3, 1, 4)
    cache = GistCache.build(
        method="prefix",
        keys=[key],
        values=[key],
        prompt_token_ids=[7, 8, 9],
        model_fingerprint="m",
    )
    assert cache.slots == cache.next_position == cache.manifest.prompt_tokens == 3
    assert cache.ratio == 1.0
    assert cache.num_bytes == cache.uncompressed_bytes == 2 * 3 * 4 * 4


def test_bytes_count_both_widths():
    cache = gist_cache(torch.bfloat16)
    assert cache.num_bytes == 5 * (2 * 8 + 2 * 8 + 6 + 4) * 2
    assert cache.uncompressed_bytes == 8 * cache.num_bytes


def test_token_hash_is_of_little_endian_words():
    words = b"".join(token.to_bytes(8, "little") for token in (1, 300, 2**40))
    assert hash_tokens([1, 300, 2**40]) == hashlib.sha256(words).hexdigest()


def test_gradients_pass_through():
    key = torch.randn(2, 1, 4, requires_grad=True)
    cache = GistCache.build(
        method="gist",
        keys=[key],
        values=[key * 2],
        prompt_token_ids=[1, 2, 3],
        model_fingerprint="",
        gist_tokens=2,
    )
    cache.values[0].sum().backward()
    assert torch.equal(key.grad, torch.full_like(key, 2.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_round_trip_is_bit_exact(tmp_path, dtype):
    cache = gist_cache(dtype)
    cache.save(tmp_path / "a.safetensors")
    loaded = GistCache.load(tmp_path / "a.safetensors")
    assert same(cache, loaded)
    assert loaded.content_hash == cache.content_hash
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_strided_and_gradient_tensors_are_saved_row_major(tmp_path):
    wide = torch.randn(4, 2, 5, requires_grad=True)
    key = wide.permute(2, 1, 0)
    cache = GistCache.build(
        method="gist",
        keys=[key],
        values=[key],
        prompt_token_ids=[1, 2],
        model_fingerprint="m",
        sink_tokens=1,
        gist_tokens=4,
    )
    cache.save(tmp_path / "a")
    assert torch.equal(GistCache.load(tmp_path / "a").keys[0], key)


def test_file_is_read_by_the_safetensors_library(tmp_path):
    cache = gist_cache(torch.bfloat16)
    cache.save(tmp_path / "a.safetensors")
    tensors = load_file(tmp_path / "a.safetensors")
    assert torch.equal(tensors["layers.1.value"], cache.values[1])
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        manifest = json.loads(file.metadata()["manifest"])
    assert manifest["next_position"] == 44


def test_loaded_tensors_do_not_lean_on_the_file(tmp_path):
    cache = gist_cache()
    path = tmp_path / "a"
    cache.save(path)
    loaded = GistCache.load(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size - size // 2))
    assert same(cache, loaded)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_fingerprint", "model-b"),
        ("dtype", "bfloat16"),
        ("prompt_hash", "0" * 64),
        ("num_layers", 3),
        ("method", "prefix"),
        ("slots", 6),
        ("layers", (LayerShape(2, 8, 8), LayerShape(1, 6, 6))),
    ],
)
def test_load_refuses_and_names_the_field_that_differs(tmp_path, field, value):
    gist_cache().save(tmp_path / "a")
    with pytest.raises(GistCacheError, match=rf"{field} .*expected") as caught:
        GistCache.load(tmp_path / "a", expect={field: value})
    assert caught.value.field == field
    assert str(tmp_path / "a") in str(caught.value)


def test_load_accepts_what_matches(tmp_path):
    cache = gist_cache()
    cache.save(tmp_path / "a")
    expect = {"model_fingerprint": "model-a", "dtype": "float32", "layers": cache.manifest.layers}
    assert same(GistCache.load(tmp_path / "a", expect=expect), cache)


def test_expecting_an_unknown_field_is_a_mistake_of_the_caller(tmp_path):
    gist_cache().save(tmp_path / "a")
    with pytest.raises(ValueError, match="no field 'modell'"):
        GistCache.load(tmp_path / "a", expect={"modell": "x"})


def test_a_cache_without_a_model_cannot_be_saved(tmp_path):
    cache = gist_cache()
    nameless = GistCache(replace(cache.manifest, model_fingerprint=""), cache.keys, cache.values)
    with pytest.raises(GistCacheError, match="model_fingerprint"):
        nameless.save(tmp_path / "a")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"format_version": 2}, "format_version"),
        ({"method": "magic"}, "method"),
        ({"dtype": "int8"}, "dtype"),
        ({"slots": 6}, "slots"),
        ({"next_position": 45}, "next_position"),
        ({"gist_tokens": 0}, "gist_tokens"),
        ({"sink_tokens": 41}, "sink_tokens"),
        ({"prompt_tokens": 0}, "prompt_tokens"),
        ({"method": "prefix"}, "gist_tokens"),
        ({"layers": ()}, "layers"),
    ],
)
def test_manifest_refuses_contradictions(changes, field):
    with pytest.raises(GistCacheError) as caught:
        replace(gist_cache().manifest, **changes)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (lambda m: m.update(format_version=99), "format_version"),
        (lambda m: m.pop("format_version"), "format_version"),
        (lambda m: m.update(slots="5"), "slots"),
        (lambda m: m.update(slots=True), "slots"),
        (lambda m: m.pop("prompt_hash"), "prompt_hash"),
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m.update(layers=[[1, 2]]), "layers"),
    ],
)
def test_manifest_text_refuses_what_it_does_not_know(edit, field):
    data = json.loads(gist_cache().manifest.to_json())
    edit(data)
    with pytest.raises(GistCacheError) as caught:
        GistManifest.from_json(json.dumps(data))
    assert caught.value.field == field


def test_tensors_must_fit_the_manifest():
    cache = gist_cache()
    with pytest.raises(GistCacheError, match=r"layers\.1\.key\.shape"):
        GistCache(cache.manifest, (cache.keys[0], cache.keys[0]), cache.values)
    with pytest.raises(GistCacheError, match=r"layers\.0\.value\.dtype"):
        GistCache(cache.manifest, cache.keys, (cache.values[0].half(), cache.values[1]))
    with pytest.raises(GistCacheError, match="num_layers"):
        GistCache(cache.manifest, cache.keys[:1], cache.values)


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    gist_cache().save(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(GistCacheError):
            GistCache.load(tmp_path / "cut")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "a"
    gist_cache(torch.bfloat16).save(path)
    return path


@given(data=st.data())
def test_any_flipped_bit_is_noticed(saved, data):
    content = bytearray(saved.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    broken = saved.with_name("broken")
    broken.write_bytes(content)
    with pytest.raises(GistCacheError):
        GistCache.load(broken)


def test_read_manifest_reads_no_tensors_but_notices_a_short_file(tmp_path):
    cache = gist_cache()
    cache.save(tmp_path / "a")
    assert read_manifest(tmp_path / "a") == (cache.manifest, cache.content_hash)
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content[:-1])
    with pytest.raises(GistCacheError, match="truncated"):
        read_manifest(tmp_path / "a")


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "a")
    with pytest.raises(GistCacheError, match="not a gist cache"):
        GistCache.load(tmp_path / "a")


def test_a_missing_file_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        GistCache.load(tmp_path / "nothing")


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, step):
    old = gist_cache(seed=1)
    old.save(tmp_path / "a")

    def fail(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(OSError, match="No space"):
            gist_cache(seed=2).save(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]
    assert same(GistCache.load(tmp_path / "a"), old)


def test_content_hash_depends_on_tensors_and_manifest():
    cache = gist_cache()
    other_model = GistCache(
        replace(cache.manifest, model_fingerprint="model-b"), cache.keys, cache.values
    )
    hashes = {cache.content_hash, gist_cache(seed=1).content_hash, other_model.content_hash}
    assert len(hashes) == 3
    assert gist_cache().content_hash == cache.content_hash
