"""Text sources: every way in, and what is said of files that cannot be used."""

import bz2
import gzip
import json
import lzma
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gistserve.training.continual.source import Source, SourceError


def texts(source: Source) -> list[str]:
    return [text for text, _ in source.documents()]


def of(path: Path, **changes: Any) -> Source:
    return Source(name="s", path=str(path), **changes)


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffErste Zeile\r\nzweite ß-Zeile\r\n".encode())
    assert texts(of(path)) == ["Erste Zeile\nzweite ß-Zeile\n"]


def test_a_separator_makes_many(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\nthree\n\n\n\nfour")
    assert texts(of(path, separator="\n\n")) == ["one\ntwo", "three", "four"]


def test_separators_and_letters_across_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gistserve.training.continual.compressed_file._CHUNK", 3)
    path = tmp_path / "a.txt"
    path.write_bytes("äöü\r\n--\r\nßßß\r\n--\r\nend".encode())
    assert texts(of(path, separator="\n--\n")) == ["äöü", "ßßß", "end"]


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    records = [{"text": "one\ntwo"}, {"text": ""}, {"text": "three"}]
    path.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    assert texts(of(path)) == ["one\ntwo", "three"]
    path.write_text(json.dumps({"body": "x"}) + "\n")
    assert texts(of(path, text_field="body")) == ["x"]


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_compressed_files(ending: str, tmp_path: Path) -> None:
    data = COMPRESSORS[ending]("".join(f'{{"text": "Zahl {i} ß"}}\n' for i in range(500)).encode())
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(data)
    read = list(of(path).documents())
    assert [text for text, _ in read] == [f"Zahl {i} ß" for i in range(500)]
    assert read[-1][1] == len(data) == of(path).size()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=rf"a\.jsonl{ending} is cut off or damaged"):
        texts(of(path))
    path.write_bytes(b"this was never compressed")
    with pytest.raises(SourceError, match="is cut off or damaged"):
        texts(of(path))


def test_zstd(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    frames = [zstandard.compress(text.encode() * 100) for text in ("one ", "two ")]
    path = tmp_path / "a.txt.zst"
    path.write_bytes(b"".join(frames))
    assert texts(of(path)) == ["one " * 100 + "two " * 100]
    path.write_bytes(b"".join(frames)[:-4])
    with pytest.raises(SourceError, match="is cut off or damaged"):
        texts(of(path))


def test_zstd_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gistserve.training.continual.compressed_file.find_spec", lambda name: None)
    path = tmp_path / "a.txt.zst"
    path.write_bytes(b"anything")
    with pytest.raises(SourceError, match="pip install zstandard"):
        texts(of(path))


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("third")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/z.jsonl.gz").write_bytes(gzip.compress(b'{"text": "second"}'))
    (tmp_path / "a/b.md").write_text("first")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert texts(of(tmp_path)) == ["first", "second", "third"]


def test_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the package `datasets`; only its one public function is used."""
    asked = []

    def load_dataset(name: str, subset: str | None, *, split: str) -> list[dict[str, str]]:
        asked.append((name, subset, split))
        if name == "missing":
            raise FileNotFoundError("no such data set")
        return [{"body": "one"}, {"body": "two"}]

    package = types.ModuleType("datasets")
    package.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    package.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", package)
    source = Source(name="s", dataset="some/set", subset="en", split="test", text_field="body")
    assert texts(source) == ["one", "two"]
    assert asked == [("some/set", "en", "test")]
    with pytest.raises(SourceError, match="record 0 has no text in the field 'text'"):
        texts(Source(name="s", dataset="some/set"))
    with pytest.raises(SourceError, match="cannot be loaded: no such data set"):
        texts(Source(name="s", dataset="missing"))


def test_a_data_set_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gistserve.training.continual.source.find_spec", lambda name: None)
    with pytest.raises(SourceError, match="pip install datasets"):
        texts(Source(name="s", dataset="some/set"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "source s is empty"),
        ("a.txt", b" \n \n", "source s is empty"),
        ("a.jsonl", b'{"text": " "}\n', "source s is empty"),
        ("a.txt", b"fine\nm\xfcde\n", r"a\.txt is not utf-8 at line 2 \(.*byte 0xfc\): convert"),
        ("a.txt", "\ufeffwide".encode("utf-16-le"), r"a\.txt is not utf-8 at line 1"),
        ("a.txt", "wide\nx".encode("utf-16-be"), r"has a NUL byte at line 1"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', r"a\.jsonl, line 2 is not valid JSON"),
        ("a.jsonl", b'{"body": "x"}\n', "line 1 has no text in the field 'text'"),
        ("a.jsonl", b'["x"]\n', "line 1 has no text in the field 'text'"),
        ("a.jsonl", b'{"text": 3}\n', "line 1 has no text in the field 'text'"),
        ("a.jsonl", b'{"text": "m\xfcde"}\n', r"a\.jsonl is not utf-8 at line 1"),
    ],
)
def test_what_cannot_be_read(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        texts(of(tmp_path / name))


def test_a_folder_of_two_encodings(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("müde", encoding="utf-8")
    (tmp_path / "b.txt").write_text("müde", encoding="latin-1")
    with pytest.raises(SourceError, match=r"b\.txt is not utf-8.*a source of its own"):
        texts(of(tmp_path))
    assert texts(of(tmp_path / "b.txt", encoding="latin-1")) == ["müde"]


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        texts(of(tmp_path / "none.txt"))
    with pytest.raises(SourceError, match="holds no file that ends in"):
        texts(of(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(SourceError, match="cannot be read: Permission denied"):
        texts(of(tmp_path / "a.txt"))


def test_identity_follows_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    first = of(path).identity()
    assert of(path).identity() == Source(name="other", path=str(path), share=2).identity() == first
    assert of(path, separator="x").identity() != first
    path.write_text("three")
    assert of(path).identity() != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "give one of path and dataset"),
        ({"path": "a", "dataset": "b"}, "give one of path and dataset"),
        ({"path": "a", "separator": ""}, "separator must not be empty"),
        ({"path": "a", "share": 0}, "share must be above 0, got 0"),
        ({"path": "a", "encoding": "utf-9"}, "unknown encoding 'utf-9'"),
        ({"path": "a", "name": ""}, "needs a name"),
    ],
)
def test_settings_that_make_no_sense(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Source(**({"name": "s"} | changes))
