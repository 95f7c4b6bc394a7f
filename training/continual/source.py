"""Text sources: files, folders, JSON lines, compressed or not, and Hugging Face data sets."""

import codecs
import hashlib
import importlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from .compressed_file import CompressedFileError, plain_name, read_chunks

TEXT_ENDINGS = (".txt", ".text", ".md")
JSON_ENDINGS = (".jsonl", ".ndjson")


class SourceError(ValueError):
    """A text source that cannot be used; the message names the file and the place in it."""


@dataclass(kw_only=True)
class Source:
    """Where documents come from, and their share among the sources of their group.

    `path` is a file or a folder (all its files that end in .txt, .text, .md, .jsonl or .ndjson,
    each also with .gz, .bz2, .xz or .zst behind, in the order of their names); or `dataset` is a
    name that the package `datasets` loads, with `split` and `subset`. In JSON lines and data sets
    the text is the field `text_field`. A text file is one document, or, with `separator`, as many
    as that string separates. `share` is relative to the other sources of the group (null: by their
    numbers of tokens). Documents are shuffled by `order_seed` alone, so a replayed source comes
    back in the order in which it was first trained on; `shuffle: false` keeps the order of the
    files.
    """

    name: str
    path: str | None = None
    dataset: str | None = None
    subset: str | None = None
    split: str = "train"
    text_field: str = "text"
    separator: str | None = None
    encoding: str = "utf-8"
    share: float | None = None
    shuffle: bool = True
    order_seed: int = 0

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a source needs a name")
        if (self.path is None) == (self.dataset is None):
            raise ValueError(f"source {self.name}: give one of path and dataset")
        if self.separator == "":
            raise ValueError(f"source {self.name}: separator must not be empty")
        if self.share is not None and self.share <= 0:
            raise ValueError(f"source {self.name}: share must be above 0, got {self.share}")
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise ValueError(f"source {self.name}: unknown encoding {self.encoding!r}") from error

    def identity(self) -> str:
        """64 hex digits that change when what the source reads changes.

        Files count with path, size and time of change, as in `make`; data sets with their names.
        """
        content: list[Any] = [self.dataset, self.subset, self.split]
        if self.dataset is None:
            stats = [(path, path.stat()) for path in self.files()]
            content = [[str(p.resolve()), stat.st_size, stat.st_mtime_ns] for p, stat in stats]
        reading = [self.text_field, self.separator, self.encoding]
        return hashlib.sha256(json.dumps([content, reading]).encode()).hexdigest()

    def files(self) -> list[Path]:
        """The files of `path`, sorted. SourceError where there are none."""
        assert self.path is not None
        path = Path(self.path)
        if path.is_file():
            return [path]
        if not path.exists():
            raise SourceError(f"source {self.name}: {path} does not exist")
        endings = TEXT_ENDINGS + JSON_ENDINGS
        files = [p for p in path.rglob("*") if p.is_file() and plain_name(p).endswith(endings)]
        if not files:
            raise SourceError(
                f"source {self.name}: {path} holds no file that ends in {', '.join(endings)} "
                "(compressed or not)"
            )
        return sorted(files)

    def size(self) -> int | None:
        """Bytes on the disk, for a progress bar; None for a data set."""
        return None if self.path is None else sum(path.stat().st_size for path in self.files())

    def documents(self) -> Iterator[tuple[str, int]]:
        """Each document that is not blank, with the bytes on the disk that were read so far.

        Raises SourceError for what cannot be read, decoded or parsed, and at the end of a source
        without any document.
        """
        found = False
        for text, position in self._all_documents():
            if text.strip():
                found = True
                yield text, position
        if not found:
            raise SourceError(f"source {self.name} is empty: {self.path or self.dataset}")

    def _all_documents(self) -> Iterator[tuple[str, int]]:
        if self.dataset is not None:
            yield from ((text, 0) for text in _dataset_texts(self))
            return
        done = 0
        for path in self.files():
            try:
                with path.open("rb") as raw:
                    texts = _decoded(path, read_chunks(path, raw), self.encoding)
                    for text in self._split(path, texts):
                        yield text, done + raw.tell()
            except CompressedFileError as error:
                raise SourceError(f"source {self.name}: {error}") from error
            except OSError as error:
                raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error
            done += path.stat().st_size

    def _split(self, path: Path, texts: Iterable[str]) -> Iterator[str]:
        if plain_name(path).endswith(JSON_ENDINGS):
            lines = enumerate(_separated(texts, "\n"), start=1)
            return (_json_text(path, n, line, self.text_field) for n, line in lines if line.strip())
        return (
            iter(["".join(texts)]) if self.separator is None else _separated(texts, self.separator)
        )


@dataclass(kw_only=True)
class ValidationSource(Source):
    """Held-out documents; `group` says whose loss they measure: that of the old or new data."""

    group: Literal["old", "new"] = "new"


def _decoded(path: Path, chunks: Iterable[bytes], encoding: str) -> Iterator[str]:
    """Text of the chunks with "\\n" for every line end, without a byte order mark."""
    name = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    inner = codecs.getincrementaldecoder(name)()
    decoder = io.IncrementalNewlineDecoder(inner, translate=True)
    line = 1
    for chunk, final in _with_last(chunks):
        try:
            text = decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            raise SourceError(
                f"{path} is not {encoding} at line {line} ({error.reason}, byte "
                f"0x{error.object[error.start]:02x}): convert the file, or give it a source of its "
                "own with its encoding"
            ) from error
        if "\0" in text:
            line += text[: text.index("\0")].count("\n")
            raise SourceError(f"{path} is no {encoding} text: it has a NUL byte at line {line}")
        line += text.count("\n")
        yield text


def _with_last(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    yield from ((chunk, False) for chunk in chunks)
    yield b"", True


def _separated(texts: Iterable[str], separator: str) -> Iterator[str]:
    rest = ""
    for text in texts:
        *whole, rest = (rest + text).split(separator)
        yield from whole
    yield rest


def _json_text(path: Path, number: int, line: str, field: str) -> str:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise SourceError(f"{path}, line {number} is not valid JSON: {error}") from error
    text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise SourceError(
            f"{path}, line {number} has no text in the field {field!r}: set text_field"
        )
    return text


def _dataset_texts(source: Source) -> Iterator[str]:
    if find_spec("datasets") is None:
        raise SourceError(
            f"source {source.name}: reading a data set needs the package datasets: "
            "pip install datasets"
        )
    load = importlib.import_module("datasets").load_dataset
    try:
        records = load(source.dataset, source.subset, split=source.split)
    except Exception as error:  # the package has no common base of its errors
        raise SourceError(f"source {source.name} cannot be loaded: {error}") from error
    for number, record in enumerate(records):
        if not isinstance(record.get(source.text_field), str):
            raise SourceError(
                f"source {source.name}, record {number} has no text in the field "
                f"{source.text_field!r}: set text_field"
            )
        yield record[source.text_field]
