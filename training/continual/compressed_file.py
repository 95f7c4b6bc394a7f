"""Reading compressed files as streams that fail when they are cut off."""

import bz2
import gzip
import importlib
import io
import lzma
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

_CHUNK = 2**20


class CompressedFileError(ValueError):
    """A compressed file that is cut off, is none, or needs a library that is not installed."""


def plain_name(path: Path) -> str:
    """The file's name without the ending of its compression, in lower case."""
    name = path.name.lower()
    return name[: -len(path.suffix)] if path.suffix.lower() in _READERS else name


def read_chunks(path: Path, raw: IO[bytes]) -> Iterator[bytes]:
    """Decompressed content of `raw`, the opened file of `path`, by the ending of its name.

    Raises CompressedFileError and OSError.
    """
    reader = _READERS.get(path.suffix.lower())
    stream = raw if reader is None else reader(raw)
    try:
        while chunk := stream.read(_CHUNK):
            yield chunk
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise CompressedFileError(f"{path} is cut off or damaged: {error}") from error
    except OSError as error:  # bz2 says so for what is no bz2 file
        if error.errno is None:
            raise CompressedFileError(f"{path} is cut off or damaged: {error}") from error
        raise


class _ZstdStream(io.RawIOBase):
    """zstd frames by the package `zstandard`, whose own reader takes a cut-off file for whole."""

    def __init__(self, raw: IO[bytes], module: Any) -> None:
        self._raw = raw
        self._new = module.ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._error = module.ZstdError

    def read(self, size: int = -1) -> bytes:
        """The next part of the content, not empty before the end."""
        while chunk := self._raw.read(_CHUNK):
            if text := self._decompressed(chunk):
                return text
        if self._frame is not None and not self._frame.eof:
            raise EOFError("the last frame has no end")
        return b""

    def _decompressed(self, chunk: bytes) -> bytes:
        parts = []
        try:
            while chunk:
                if self._frame is None or self._frame.eof:
                    self._frame = self._new()
                parts.append(self._frame.decompress(chunk))
                chunk = self._frame.unused_data if self._frame.eof else b""
        except self._error as error:
            raise EOFError(str(error)) from error
        return b"".join(parts)


def _zstd(raw: IO[bytes]) -> Any:
    if find_spec("compression") is not None:  # Python 3.14
        return importlib.import_module("compression.zstd").ZstdFile(raw)
    if find_spec("zstandard") is None:
        raise CompressedFileError(
            "reading .zst files needs the package zstandard: pip install zstandard"
        )
    return _ZstdStream(raw, importlib.import_module("zstandard"))


_READERS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _zstd,
}
