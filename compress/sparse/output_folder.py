"""A folder that appears complete or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..atomic import TEMPORARY_SUFFIX, sync_directory
from ..errors import SparsityError


def check_free(directory: Path) -> None:
    """Raise SparsityError where `directory` is a file, or a folder with something in it."""
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise SparsityError(f"{directory} exists and is no folder; choose another name")
    if directory.is_dir() and any(directory.iterdir()):
        raise SparsityError(f"{directory} is not empty; choose another folder or remove it first")


@contextmanager
def new_folder(directory: Path) -> Iterator[Path]:
    """A temporary folder beside `directory`, renamed to it where the block ends well.

    Otherwise it is removed and nothing has happened. Raises SparsityError (see `check_free`), and
    OSError where it cannot be made.
    """
    directory = Path(os.path.abspath(directory))
    check_free(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f".{directory.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            _sync_file(file)
        sync_directory(temporary)
        os.rename(temporary, directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(directory.parent)


def _sync_file(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
