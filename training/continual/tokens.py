"""Tokenised sources: memory-mapped shards of token ids, written once and all or nothing."""

import hashlib
import itertools
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ...compress.atomic import write_atomic
from .source import Source, SourceError

MANIFEST = "manifest.json"
LENGTHS = "lengths.bin"
SHARD_TOKENS = 2**27
_FORMAT = 1
_GROUP = 256
_GROUP_CHARACTERS = 2**22


class TokenStoreError(ValueError):
    """Tokenised data that is not whole or does not belong to this source and tokenizer."""


@dataclass(frozen=True)
class StoreManifest:
    """What makes a folder of shards a store; written last.

    `files` has the bytes of every file; `shards` the documents of every shard.
    """

    source: str
    tokenizer: str
    vocabulary: int
    dtype: str
    documents: int
    tokens: int
    shards: list[int]
    files: dict[str, int]
    format: int = _FORMAT


class TokenStore:
    """Token ids of a source's documents, read through memory maps.

    Each document is as its tokenizer writes it, special tokens included, and ends with the end
    token where the tokenizer has one.
    """

    def __init__(self, folder: Path) -> None:
        self.manifest = _checked_manifest(folder)
        self.key = folder.name
        lengths = np.fromfile(folder / LENGTHS, dtype="<i8")
        self.lengths: NDArray[np.int64] = lengths.astype(np.int64, copy=False)
        self._first = np.cumsum([0, *self.manifest.shards])
        self._starts = np.cumsum([0, *self.lengths])
        self._shards = [
            np.memmap(folder / shard_name(i), dtype=self.manifest.dtype, mode="r")
            for i in range(len(self.manifest.shards))
        ]

    @property
    def tokens(self) -> int:
        return self.manifest.tokens

    @property
    def documents(self) -> int:
        return self.manifest.documents

    def read(self, document: int, start: int, end: int) -> NDArray[np.int64]:
        """Token ids [end - start] int64 of a part of a document."""
        shard = int(np.searchsorted(self._first, document, side="right")) - 1
        offset = int(self._starts[document] - self._starts[self._first[shard]])
        ids: NDArray[np.int64] = self._shards[shard][offset + start : offset + end].astype(np.int64)
        return ids


def open_store(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    cache: Path,
    *,
    progress: bool = True,
    shard_tokens: int = SHARD_TOKENS,
) -> TokenStore:
    """The store of `source` under `cache`; written first where there is none that is whole.

    The folder's name is a hash of what the source reads and of the tokenizer, so that a changed
    file or another tokenizer gets a store of its own. Raises SourceError, TokenStoreError.
    """
    tokens_by = tokenizer_hash(tokenizer)
    key = hashlib.sha256(f"{_FORMAT} {source.identity()} {tokens_by}".encode()).hexdigest()[:32]
    folder = cache / key
    if not (folder / MANIFEST).exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(source, tokenizer, tokens_by, folder, progress, shard_tokens)
        except OSError as error:
            raise TokenStoreError(
                f"tokens of {source.name} cannot be written to {folder}: {error.strerror}"
            ) from error
    return TokenStore(folder)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """64 hex digits of all that turns text into ids, the end token included."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content: Any = tokenizer.get_vocab()
    if backend is not None:
        content = json.loads(backend.to_str())
        content["padding"] = content["truncation"] = None
    text = json.dumps([content, tokenizer.eos_token_id], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def shard_name(index: int) -> str:
    return f"tokens-{index:05d}.bin"


def _write(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    tokens_by: str,
    folder: Path,
    progress: bool,
    shard_tokens: int,
) -> None:
    dtype = "<u2" if len(tokenizer) <= 2**16 else "<u4"
    lengths = array("q")
    shards: list[int] = []
    documents = _tokenised(source, tokenizer, progress)
    for first in documents:
        before = len(lengths)
        shard = _one_shard(itertools.chain([first], documents), lengths, shard_tokens)
        path = folder / shard_name(len(shards))
        write_atomic(path, (np.asarray(ids, dtype).tobytes() for ids in shard))
        shards.append(len(lengths) - before)
    if not lengths:
        raise SourceError(f"source {source.name} is empty: no document has a token")
    write_atomic(folder / LENGTHS, [np.asarray(lengths, "<i8").tobytes()])
    names = [LENGTHS, *(shard_name(i) for i in range(len(shards)))]
    manifest = StoreManifest(
        source=source.name,
        tokenizer=tokens_by,
        vocabulary=len(tokenizer),
        dtype=dtype,
        documents=len(lengths),
        tokens=sum(lengths),
        shards=shards,
        files={name: (folder / name).stat().st_size for name in names},
    )
    write_atomic(folder / MANIFEST, [json.dumps(asdict(manifest), indent=2).encode()])


def _one_shard(
    documents: Iterator[list[int]], lengths: "array[int]", shard_tokens: int
) -> Iterator[list[int]]:
    """Documents until the shard is full; a document never spans two shards."""
    size = 0
    for ids in documents:
        lengths.append(len(ids))
        size += len(ids)
        yield ids
        if size >= shard_tokens:
            return


def _tokenised(
    source: Source, tokenizer: PreTrainedTokenizerBase, progress: bool
) -> Iterator[list[int]]:
    end = tokenizer.eos_token_id
    bar = tqdm(
        total=source.size(),
        unit="B",
        unit_scale=True,
        desc=f"tokenising {source.name}",
        disable=not progress,
    )
    with bar:
        for group in _groups(source.documents()):
            texts = [text for text, _ in group]
            for ids in tokenizer(texts, return_attention_mask=False, verbose=False).input_ids:
                if end is not None and (not ids or ids[-1] != end):
                    ids = [*ids, end]
                if ids:
                    yield ids
            bar.update(group[-1][1] - bar.n)


def _groups(documents: Iterable[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    """Documents in lists worth a call of the tokenizer."""
    group: list[tuple[str, int]] = []
    for document in documents:
        group.append(document)
        if len(group) == _GROUP or sum(len(text) for text, _ in group[-8:]) > _GROUP_CHARACTERS:
            yield group
            group = []
    if group:
        yield group


def _checked_manifest(folder: Path) -> StoreManifest:
    path = folder / MANIFEST
    try:
        manifest = StoreManifest(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TokenStoreError(f"{path} cannot be read: {error}; {_remedy(folder)}") from error
    for name, size in manifest.files.items():
        found = (folder / name).stat().st_size if (folder / name).exists() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes"
            raise TokenStoreError(
                f"{folder / name} {state}, but should have {size}: the tokens of "
                f"{manifest.source} are cut off; {_remedy(folder)}"
            )
    return manifest


def _remedy(folder: Path) -> str:
    return f"delete the folder {folder} to have the source tokenised again"
