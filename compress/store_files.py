"""The files of a store: where they lie, how they are written, and where broken ones go."""

import errno
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .atomic import TEMPORARY_SUFFIX, make_directory, sync_directory, write_atomic
from .cache import GistCache, read_manifest
from .directory_lock import DirectoryLock
from .errors import GistCacheError, PromptRecordError, StoreUnwritableError
from .record import PromptRecord

logger = logging.getLogger(__name__)

_TRANSIENT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
_CACHE_FILE = re.compile(r"([0-9a-f]{64})\.safetensors")


class StoreFiles:
    """Directory of a store, locked until `close`.

    store.lock                         held while the store is open
    unflushed                          there while uses are counted that no record tells yet
    records/<prompt id>.json           one PromptRecord each
    caches/<content hash>.safetensors  shared by all records with the same cache
    quarantine/                        what could not be read, kept for a person to look at

    Records and caches tell what prompts say: only the store's owner may read them.

    `quarantined` lists what was moved there, with the reason. `num_bytes` is the size of all
    records and caches. Methods raise OSError for a disk that refuses. Not thread-safe: its owner
    locks. Raises StoreUnwritableError, StoreLockedError.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.quarantined: list[tuple[Path, str]] = []
        self.num_bytes = 0
        self._sizes: dict[Path, int] = {}
        self._records = directory / "records"
        self._caches = directory / "caches"
        self._quarantine = directory / "quarantine"
        self._unflushed = directory / "unflushed"
        try:
            make_directory(directory)
            self._lock = DirectoryLock(directory)
            try:
                self._create_directories()
                self._measure_all()
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise self.unwritable(error) from error

    def close(self) -> None:
        """Let another process in."""
        self._lock.release()

    def unwritable(self, error: OSError) -> StoreUnwritableError:
        """What to tell a person about `error`."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space" if full else "make it readable and writable"
        return StoreUnwritableError(
            f"the store {self.directory} cannot be used ({error}); {remedy}, or choose another "
            "directory with --store"
        )

    def write_record(self, record: PromptRecord) -> None:
        with self._measured(self._record_path(record.id)) as path:
            write_atomic(path, [record.to_bytes()], private=True)

    def read_record(self, prompt_id: str) -> PromptRecord:
        """Raises PromptRecordError for a record that is broken or filed under a wrong name."""
        record = PromptRecord.from_bytes(self._record_path(prompt_id).read_bytes())
        if record.id != prompt_id:
            raise PromptRecordError(f"prompt record holds the prompt {record.id}")
        return record

    def remove_record(self, prompt_id: str) -> None:
        with self._measured(self._record_path(prompt_id)) as path:
            path.unlink(missing_ok=True)
            sync_directory(self._records)

    def record_ids(self) -> list[str]:
        """Names of all record files, whatever they hold."""
        return sorted(path.stem for path in self._records.glob("*.json"))

    def mark_unflushed(self) -> None:
        """Note for the next opening that records may lag behind."""
        self._unflushed.touch(mode=0o600)

    def clear_unflushed(self) -> None:
        try:
            self._unflushed.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("cannot remove %s: %s", self._unflushed, error)

    def is_unflushed(self) -> bool:
        return self._unflushed.exists()

    def write_cache(self, cache: GistCache) -> None:
        """Write a cache, unless its file is there."""
        if self.has_cache(cache.content_hash):
            return
        with self._measured(self._cache_path(cache.content_hash)) as path:
            cache.save(path, private=True)

    def has_cache(self, cache_hash: str) -> bool:
        return self._cache_path(cache_hash).exists()

    def read_cache(self, cache_hash: str, device: torch.device | str = "cpu") -> GistCache:
        """Raises GistCacheError for a file that is broken or holds another cache."""
        path = self._cache_path(cache_hash)
        cache = GistCache.load(path, device=device)
        _check_content_hash(path, cache.content_hash)
        return cache

    def check_cache_header(self, cache_hash: str) -> None:
        """Raise GistCacheError where a file's header and length already show it broken."""
        path = self._cache_path(cache_hash)
        _check_content_hash(path, read_manifest(path)[1])

    def remove_cache(self, cache_hash: str) -> None:
        """Remove a cache file. One that cannot be removed is left for the next opening."""
        try:
            with self._measured(self._cache_path(cache_hash)) as path:
                path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("cannot remove the unused cache %s: %s", cache_hash, error)

    def cache_hashes(self) -> Iterator[str]:
        """Names of all cache files, whatever they hold."""
        for path in sorted(self._caches.iterdir()):
            if match := _CACHE_FILE.fullmatch(path.name):
                yield match[1]

    def remove_temporaries(self) -> None:
        """Remove what writes that were cut off have left."""
        for directory in (self._records, self._caches, self._quarantine):
            for path in directory.glob(f".*{TEMPORARY_SUFFIX}"):
                path.unlink()

    def quarantine_record(self, prompt_id: str, reason: str) -> None:
        self._move_to_quarantine(self._record_path(prompt_id), reason)

    def quarantine_cache(self, cache_hash: str, reason: str) -> None:
        self._move_to_quarantine(self._cache_path(cache_hash), reason)

    def _record_path(self, prompt_id: str) -> Path:
        return self._records / f"{prompt_id}.json"

    def _cache_path(self, cache_hash: str) -> Path:
        return self._caches / f"{cache_hash}.safetensors"

    @contextmanager
    def _measured(self, path: Path) -> Iterator[Path]:
        """Count a file's size anew after what is done to it, even where that fails."""
        try:
            yield path
        finally:
            self._measure(path)

    def _measure(self, path: Path) -> None:
        size = path.stat().st_size if path.exists() else 0
        self.num_bytes += size - self._sizes.pop(path, 0)
        if size:
            self._sizes[path] = size

    def _measure_all(self) -> None:
        for prompt_id in self.record_ids():
            self._measure(self._record_path(prompt_id))
        for cache_hash in self.cache_hashes():
            self._measure(self._cache_path(cache_hash))

    def _create_directories(self) -> None:
        for directory in (self._records, self._caches, self._quarantine):
            directory.mkdir(exist_ok=True)
            # An empty file: a store on a full disk can still be read.
            probe = directory / f".probe{TEMPORARY_SUFFIX}"
            write_atomic(probe, [], durable=False)
            probe.unlink()
        sync_directory(self.directory)

    def _move_to_quarantine(self, path: Path, reason: str) -> None:
        if not path.exists():
            return
        target = self._quarantine / path.name
        number = 1
        while target.exists():
            number += 1
            target = self._quarantine / f"{path.name}.{number}"
        with self._measured(path):
            path.replace(target)
        self.quarantined.append((target, reason))
        logger.warning("moved %s to %s: %s", path, target, reason)


def fault(error: Exception) -> str:
    """The reason why a file is broken; raises `error` where it only could not be read just now."""
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if isinstance(error, OSError) and error.errno in _TRANSIENT:
        raise error
    return str(error)


def _check_content_hash(path: Path, content_hash: str) -> None:
    if path.stem != content_hash:
        raise GistCacheError(f"{path} holds the cache {content_hash}", field="content_hash")
