"""GistStore when the power fails: only what was flushed is left."""

import os
import stat
from pathlib import Path

import pytest
from gistserve.compress.atomic import sync_directory
from gistserve.compress.record import PromptRecord
from gistserve.compress.store import GistStore

from .store_samples import cache_of, record_of


class Disk:
    """What a strict file system keeps: contents and directory entries as they were last flushed.

    `os.fsync` of a file keeps its bytes, of a directory the names in it, and nothing more.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._contents: dict[int, bytes] = {}
        self._entries: dict[int, dict[str, int]] = {}
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._flush)

    def _flush(self, descriptor: int) -> None:
        self._fsync(descriptor)
        found = os.fstat(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}")
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(path) as entries:
                self._entries[found.st_ino] = {e.name: e.inode() for e in entries}
        else:
            self._contents[found.st_ino] = path.read_bytes()

    def after_power_cut(self, root: Path, target: Path) -> None:
        """Writes what is left of the directory `root` to `target`."""
        self._restore(root.stat().st_ino, target)

    def _restore(self, directory: int, target: Path) -> None:
        target.mkdir()
        for name, inode in self._entries.get(directory, {}).items():
            if inode in self._contents:
                (target / name).write_bytes(self._contents[inode])
            elif inode in self._entries:
                self._restore(inode, target / name)


def change_much(store: GistStore) -> list[PromptRecord]:
    """Every kind of change; what the store must then hold."""
    changed = store.put(record_of([1], name="a"), cache_of([1]))
    replaced = store.put(record_of([2]), cache_of([2]))
    deleted = store.put(record_of([3]), cache_of([3]))
    twin = store.put(record_of([3], owner="me"), cache_of([3]))
    store.count_use(twin.id, tokens_saved=4, at=7.0)
    replaced = store.put(replaced, cache_of([2], seed=5))
    store.flush()
    changed = store.edit(changed.id, name="b", metadata={"x": 1})
    store.delete(deleted.id)  # last, so that no other change flushes its directory
    return sorted([changed, replaced, store.get(twin.id)], key=lambda record: record.id)


def test_every_acknowledged_change_survives_a_power_cut(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    sync_directory(tmp_path)
    store = GistStore(tmp_path / "a" / "new" / "store")
    expected = change_much(store)
    disk.after_power_cut(tmp_path, tmp_path / "after")
    with GistStore(tmp_path / "after" / "a" / "new" / "store") as found:
        assert sorted(found.list(), key=lambda record: record.id) == expected
        for record in expected:
            assert found.load_cache(record.id).content_hash == record.cache_hash
        assert found.quarantined == []
    store.close()
