"""Replace a file so that a reader, or a crash at any instant, sees all of it or nothing."""

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"
_MAX_WRITE = 16 * 2**20


def write_atomic(
    path: Path,
    chunks: Iterable[bytes | memoryview],
    *,
    durable: bool = True,
    private: bool = False,
) -> None:
    """Write `chunks` one after another to `path`, replacing what was there.

    A temporary file in the same directory is written, flushed to the disk and renamed; then the
    directory is flushed too, so that after a return the new content survives a power cut.
    With `durable` false nothing is flushed: still all or nothing for a killed process, not for a
    power cut. With `private` only the owner may read the file; else the process's umask says who.
    Raises OSError; the old content is then in place unless flushing the directory,
    the very last step, was what failed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    descriptor = os.open(temporary, flags, 0o600 if private else 0o666)
    try:
        try:
            for chunk in chunks:
                _write_all(descriptor, chunk)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        sync_directory(path.parent)


def make_directory(directory: Path) -> None:
    """Create a directory, and its parents, where missing; they survive a power cut."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Flush a directory's entries (creations, renames, removals) to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, chunk: bytes | memoryview) -> None:
    rest = memoryview(chunk).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest[:_MAX_WRITE]) :]
