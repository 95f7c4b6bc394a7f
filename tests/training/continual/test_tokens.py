"""Token stores: what is in them, and that nothing half-written is taken for whole."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from gistserve.training.continual import tokens
from gistserve.training.continual.source import Source, SourceError
from gistserve.training.continual.tokenizer import train_tokenizer
from gistserve.training.continual.tokens import TokenStore, TokenStoreError, open_store

from .texts import ENGLISH, GERMAN, word_tokenizer, write_texts

TOKENIZER = word_tokenizer()


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(name="old", path=str(write_texts(tmp_path / "old.jsonl", ENGLISH, 20)))


def stored(source: Source, cache: Path, tokenizer=TOKENIZER, shard_tokens: int = 50) -> TokenStore:
    return open_store(source, tokenizer, cache, progress=False, shard_tokens=shard_tokens)


def documents(store: TokenStore) -> list[list[int]]:
    return [store.read(i, 0, int(n)).tolist() for i, n in enumerate(store.lengths)]


def expected(source: Source) -> list[list[int]]:
    return [[*TOKENIZER(text).input_ids, 2] for text, _ in source.documents()]


def test_all_documents_end_with_the_end_token(source: Source, tmp_path: Path) -> None:
    store = stored(source, tmp_path)
    assert documents(store) == expected(source)
    assert store.tokens == sum(map(len, expected(source)))
    assert len(store.manifest.shards) > 3
    assert sum(store.manifest.shards) == store.documents == 20
    ids = expected(source)[7]
    assert store.read(7, 1, 3).tolist() == ids[1:3]
    assert store.read(7, 0, 1).dtype == np.int64


def test_a_store_is_written_once(source: Source, tmp_path: Path, monkeypatch) -> None:
    first = stored(source, tmp_path)
    monkeypatch.setattr(tokens, "_write", None)
    assert documents(stored(source, tmp_path)) == documents(first)


def test_another_file_or_tokenizer_gets_another_store(source: Source, tmp_path: Path) -> None:
    first = stored(source, tmp_path)
    other = train_tokenizer([source], 300)
    second = stored(source, tmp_path, other)
    assert source.path is not None
    write_texts(Path(source.path), GERMAN, 21)
    third = stored(source, tmp_path)
    assert len({first.key, second.key, third.key}) == 3
    text = next(source.documents())[0]
    assert other.decode(documents(stored(source, tmp_path, other))[0][:-1]) == text
    assert third.documents == 21


@pytest.mark.parametrize("size", ["u2", "u4"])
def test_ids_of_large_vocabularies_take_four_bytes(
    size: str, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if size == "u4":
        monkeypatch.setattr(type(TOKENIZER), "__len__", lambda self: 2**16 + 1)
    store = stored(source, tmp_path)
    assert store.manifest.dtype == f"<{size}"
    assert documents(store) == expected(source)


@pytest.mark.parametrize("name", ["tokens-00001.bin", "lengths.bin"])
@pytest.mark.parametrize("cut", [1, None])
def test_a_file_cut_off_is_found(
    name: str, cut: int | None, source: Source, tmp_path: Path
) -> None:
    folder = tmp_path / stored(source, tmp_path).key
    if cut is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes((folder / name).read_bytes()[:-cut])
    with pytest.raises(
        TokenStoreError, match=rf"{name} (is missing|has \d+ bytes).*delete"
    ) as raised:
        stored(source, tmp_path)
    assert "the tokens of old are cut off" in str(raised.value)
    shutil.rmtree(folder)
    assert documents(stored(source, tmp_path)) == expected(source)


def test_a_broken_manifest(source: Source, tmp_path: Path) -> None:
    folder = tmp_path / stored(source, tmp_path).key
    (folder / "manifest.json").write_text("{")
    with pytest.raises(TokenStoreError, match=r"manifest\.json cannot be read.*delete the folder"):
        stored(source, tmp_path)


@pytest.mark.parametrize("stop_at", [0, 1, 3, "lengths.bin", "manifest.json"])
def test_a_store_stopped_in_writing_is_not_taken_for_whole(
    stop_at: int | str, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tokens.write_atomic

    def write(path: Path, chunks, **options) -> None:
        if path.name == (f"tokens-{stop_at:05d}.bin" if isinstance(stop_at, int) else stop_at):
            path.with_name(f".{path.name}.0.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        whole(path, chunks, **options)

    monkeypatch.setattr(tokens, "write_atomic", write)
    with pytest.raises(KeyboardInterrupt):
        stored(source, tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.glob("*/manifest.json"))
    assert documents(stored(source, tmp_path)) == expected(source)


def test_a_source_that_breaks_off_leaves_no_store(source: Source, tmp_path: Path) -> None:
    assert source.path is not None
    path = Path(source.path)
    path.write_text(path.read_text() + '{"text": 3}\n')
    with pytest.raises(SourceError, match="line 21"):
        stored(source, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/manifest.json"))


def test_a_cache_that_cannot_be_written(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(TokenStoreError, match="tokens of old cannot be written to"):
        stored(source, tmp_path / "file")


def test_a_trained_tokenizer(source: Source, tmp_path: Path) -> None:
    tokenizer = train_tokenizer([source], 500, sentinels=5)
    text = "Grüße: 漢字 <|endoftext|>?"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert (
        tokenizer("red green").input_ids
        == train_tokenizer([source], 500, sentinels=5)("red green").input_ids
    )
    assert len(tokenizer("red green blue").input_ids) <= 4
    assert tokenizer.convert_tokens_to_ids("<extra_id_4>") != tokenizer.unk_token_id
    manifest = json.loads(
        (tmp_path / stored(source, tmp_path, tokenizer).key / "manifest.json").read_text()
    )
    assert manifest["vocabulary"] == len(tokenizer) <= 500
