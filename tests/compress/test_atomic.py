"""Who may read what is written."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from gistserve.compress.atomic import write_atomic
from gistserve.compress.store import GistStore

from .store_samples import cache_of, record_of


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_umask_says_who_may_read_a_file(tmp_path: Path, umask: int) -> None:
    write_atomic(tmp_path / "file", [b"result"])
    assert mode(tmp_path / "file") == 0o666 & ~umask


def test_a_private_file_is_its_owner_s(tmp_path: Path, umask: int) -> None:
    write_atomic(tmp_path / "file", [b"secret"], private=True)
    assert mode(tmp_path / "file") == 0o600


def test_a_store_tells_prompts_to_its_owner_alone(tmp_path: Path, umask: int) -> None:
    with GistStore(tmp_path / "store") as store:
        cache = cache_of([1, 2, 3])
        store.put(record_of([1, 2, 3]), cache)
        written = [path for path in (tmp_path / "store").rglob("*") if path.suffix]
        assert {path.suffix for path in written} == {".lock", ".json", ".safetensors"}
        assert {mode(path) for path in written} == {0o600}
