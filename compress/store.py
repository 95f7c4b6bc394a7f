"""GistStore: registered prompts and their caches in a directory, safe against crashes.

    store.lock                       held while the store is open
    records/<prompt id>.json         one PromptRecord each
    caches/<content hash>.safetensors  shared by all records with the same cache
    quarantine/                      what could not be read, kept for a person to look at

A prompt exists exactly if its record does: the cache is written before the record and removed
after it. Every file appears by a rename, so a crash leaves at most files that no record needs.
"""

import errno
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch

from .atomic import TEMPORARY_SUFFIX, sync_directory, write_atomic
from .cache import GistCache, read_manifest
from .directory_lock import DirectoryLock
from .errors import (
    GistCacheError,
    GistStoreError,
    PromptNameTakenError,
    PromptRecordError,
    StoreUnwritableError,
)
from .record import PromptRecord, new_prompt_id
from .record_index import RecordIndex

__all__ = ["GistStore", "PromptRecord", "new_prompt_id"]

logger = logging.getLogger(__name__)

Records = list[PromptRecord]

_TRANSIENT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
_CACHE_FILE = re.compile(r"([0-9a-f]{64})\.safetensors")


class GistStore:
    """The prompts registered under `directory`, which is created where missing.

    All methods are thread-safe. A method that changes something returns when the change is on
    the disk (`durable=False` aside) or raises with the old state kept. Records are immutable:
    change one with `edit`, or with `dataclasses.replace` and `update`.

    Opening moves broken records and caches to `quarantine/` and lists them in `quarantined`;
    `verify_content=False` leaves the check of the caches' bytes to `load_cache` (faster for stores
    of many gigabytes). Changes made with `durable=False` are written after `flush_seconds`, by
    `flush` and by `close`; a kill loses them.
    Raises StoreUnwritableError and StoreLockedError.
    """

    def __init__(
        self, directory: str | Path, *, verify_content: bool = True, flush_seconds: float = 30.0
    ) -> None:
        self.directory = Path(directory).expanduser()
        self.quarantined: list[tuple[Path, str]] = []
        self._records_directory = self.directory / "records"
        self._caches_directory = self.directory / "caches"
        self._quarantine = self.directory / "quarantine"
        self._verify_content = verify_content
        self._flush_seconds = flush_seconds
        self._index = RecordIndex()
        self._dirty: set[str] = set()
        self._timer: threading.Timer | None = None
        self._closed = False
        # Writers hold _disk for a whole operation, and _memory only to look or to swap a record,
        # so that look-ups and counters never wait for the disk. Order: _disk, then _memory.
        self._disk = threading.RLock()
        self._memory = threading.RLock()
        try:
            self._create_directories()
            self._lock = DirectoryLock(self.directory)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._open()
        except OSError as error:
            self._lock.release()
            raise self._unwritable(error) from error
        except BaseException:
            self._lock.release()
            raise

    def put(self, record: PromptRecord, cache: GistCache) -> PromptRecord:
        """Store a prompt with its cache, replacing any of the same id; return it as stored.

        The fields that describe the cache are filled in from it. Raises PromptNameTakenError,
        PromptRecordError (record and cache do not belong together), GistCacheError (the cache
        names no model), StoreUnwritableError.
        """
        record = record.for_cache(cache)
        data = record.to_bytes()
        with self._disk:
            with self._memory:
                self._check_open()
                self._index.check_name(record)
                old = self._index.find(record.id)
            path = self._cache_path(record.cache_hash)
            with self._writing(record):
                if not path.exists():
                    cache.save(path)
                write_atomic(self._record_path(record.id), [data])
            self._remember(record)
            if old is not None:
                self._drop_unused_cache(old.cache_hash)
        return record

    def get(self, prompt_id: str) -> PromptRecord:
        """Raises PromptNotFoundError."""
        with self._memory:
            return self._index.get(prompt_id)

    def find_by_name(self, owner: str, model: str, name: str) -> PromptRecord | None:
        """The prompt that `owner` named `name` for `model`."""
        with self._memory:
            return self._index.by_name(owner, model, name)

    def find_by_prompt_hash(self, prompt_hash: str) -> Records:
        """All prompts whose token ids have this `hash_tokens`, oldest first."""
        with self._memory:
            return sorted(self._index.by_prompt(prompt_hash), key=_age)

    def list(self, *, owner: str | None = None, model: str | None = None) -> Records:
        """All prompts (of this owner, of this model), oldest first."""
        with self._memory:
            records = list(self._index)
        return sorted(
            (r for r in records if owner in (None, r.owner) and model in (None, r.model)), key=_age
        )

    def update(self, record: PromptRecord, *, durable: bool = True) -> PromptRecord:
        """Replace the record of the same id; its cache stays.

        With `durable` false the change is in memory at once and on the disk later. Raises
        PromptNotFoundError, PromptNameTakenError, PromptRecordError (another cache: use `put`),
        StoreUnwritableError.
        """
        return self._change(record.id, lambda _: record, durable)

    def edit(self, prompt_id: str, *, durable: bool = True, **changes: Any) -> PromptRecord:
        """Set the fields in `changes`, whatever other threads change meanwhile; as `update`."""
        return self._change(prompt_id, lambda current: replace(current, **changes), durable)

    def count_use(self, prompt_id: str, *, tokens_saved: int, at: float) -> None:
        """Count one request that used a prompt; written later. A deleted prompt is no error."""
        with self._memory:
            record = self._index.find(prompt_id)
            if record is None or self._closed:
                return
            used = replace(
                record,
                requests=record.requests + 1,
                tokens_saved=record.tokens_saved + tokens_saved,
                last_used_at=at,
            )
            self._index.add(used)
            self._mark_dirty(prompt_id)

    def delete(self, prompt_id: str) -> None:
        """Remove a prompt, and its cache with the last prompt that uses it.

        Raises PromptNotFoundError, StoreUnwritableError.
        """
        with self._disk:
            with self._memory:
                self._check_open()
                record = self._index.get(prompt_id)
            with self._writing(record):
                self._record_path(prompt_id).unlink(missing_ok=True)
                sync_directory(self._records_directory)
            self._forget(prompt_id)
            self._drop_unused_cache(record.cache_hash)

    def load_cache(
        self,
        prompt_id: str,
        *,
        expect: Mapping[str, object] | None = None,
        device: torch.device | str = "cpu",
    ) -> GistCache:
        """Read a prompt's cache, verified; `expect` as in `GistCache.load`.

        Raises PromptNotFoundError; GistCacheError for a cache that is not the one expected, and for
        a broken file, whose prompts are then moved to quarantine; OSError when memory or file
        handles ran out.
        """
        try:
            cache = self._read_cache(self.get(prompt_id), device)
        except (OSError, GistCacheError):
            with self._disk:  # now nobody replaces or removes it while it is read
                record = self.get(prompt_id)
                try:
                    cache = self._read_cache(record, device)
                except (OSError, GistCacheError) as error:
                    _raise_if_transient(error)
                    self._quarantine_cache(record.cache_hash, _reason(error))
                    raise GistCacheError(
                        f"the cache of {prompt_id} is broken and was moved to "
                        f"{self.directory / 'quarantine'} ({_reason(error)}); register the prompt "
                        "again"
                    ) from error
        cache.manifest.verify(expect or {})
        return cache

    def flush(self) -> None:
        """Write the changes that were made with `durable=False`. Raises StoreUnwritableError."""
        with self._disk:
            with self._memory:
                dirty = [self._index.get(prompt_id) for prompt_id in self._dirty]
                self._dirty.clear()
            for position, record in enumerate(dirty):
                try:
                    write_atomic(self._record_path(record.id), [record.to_bytes()])
                except OSError as error:
                    with self._memory:
                        self._dirty.update(unwritten.id for unwritten in dirty[position:])
                    raise self._unwritable(error) from error

    def close(self) -> None:
        """Write what is unwritten and let another process in; safe to call twice.

        Raises StoreUnwritableError if usage counters could not be written; closed all the same.
        """
        with self._disk:
            if self._closed:
                return
            with self._memory:
                self._closed = True
                if self._timer is not None:
                    self._timer.cancel()
            try:
                self.flush()
            finally:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        with self._memory:
            return len(self._index)

    def _change(
        self, prompt_id: str, edit: Callable[[PromptRecord], PromptRecord], durable: bool
    ) -> PromptRecord:
        if not durable:
            with self._memory:
                changed = self._edited(prompt_id, edit, ("name", "owner", "model"))
                self._index.add(changed)
                self._mark_dirty(prompt_id)
                return changed
        with self._disk:
            with self._memory:
                changed = self._edited(prompt_id, edit)
            with self._writing(changed):
                write_atomic(self._record_path(prompt_id), [changed.to_bytes()])
            with self._memory:
                # Once more, on what a usage count may have made of the record meanwhile.
                changed = self._edited(prompt_id, edit)
                self._index.add(changed)
            return changed

    def _edited(
        self,
        prompt_id: str,
        edit: Callable[[PromptRecord], PromptRecord],
        fixed: tuple[str, ...] = (),
    ) -> PromptRecord:
        self._check_open()
        current = self._index.get(prompt_id)
        changed = edit(current)
        for name in ("id", "cache_hash", "prompt_hash", *fixed):
            if getattr(changed, name) != getattr(current, name):
                raise PromptRecordError(f"{prompt_id}: {name} cannot be changed this way; use put")
        self._index.check_name(changed)
        return changed

    def _check_open(self) -> None:
        if self._closed:
            raise GistStoreError(f"the store {self.directory} is closed")

    def _mark_dirty(self, prompt_id: str) -> None:
        self._dirty.add(prompt_id)
        if self._timer is None and not self._closed:
            self._timer = threading.Timer(self._flush_seconds, self._flush_later)
            self._timer.daemon = True
            self._timer.start()

    def _flush_later(self) -> None:
        with self._disk:
            with self._memory:
                self._timer = None
            if self._closed:
                return
            try:
                self.flush()
            except StoreUnwritableError as error:
                logger.warning("usage counters are kept in memory: %s", error)

    def _remember(self, record: PromptRecord) -> None:
        with self._memory:
            self._index.add(record)
            self._dirty.discard(record.id)

    def _forget(self, prompt_id: str) -> None:
        with self._memory:
            self._index.discard(prompt_id)
            self._dirty.discard(prompt_id)

    @contextmanager
    def _writing(self, record: PromptRecord) -> Iterator[None]:
        """Make memory and caches agree with the disk again if writing `record` fails."""
        try:
            yield
        except BaseException as error:
            self._resynchronise(record)
            if isinstance(error, OSError):
                raise self._unwritable(error) from error
            raise

    def _resynchronise(self, record: PromptRecord) -> None:
        try:
            found = PromptRecord.from_bytes(self._record_path(record.id).read_bytes())
        except FileNotFoundError:
            self._forget(record.id)
        except (OSError, PromptRecordError) as error:
            logger.warning("cannot read %s again: %s", record.id, error)
            return
        else:
            if found == record:  # only flushing the directory had failed
                self._remember(record)
        self._drop_unused_cache(record.cache_hash)

    def _drop_unused_cache(self, cache_hash: str) -> None:
        with self._memory:
            if self._index.uses_cache(cache_hash):
                return
        try:
            self._cache_path(cache_hash).unlink(missing_ok=True)
        except OSError as error:
            logger.warning("cannot remove the unused cache %s: %s", cache_hash, error)

    def _read_cache(self, record: PromptRecord, device: torch.device | str) -> GistCache:
        path = self._cache_path(record.cache_hash)
        cache = GistCache.load(path, device=device)
        _check_content_hash(path, cache.content_hash)
        return cache

    def _record_path(self, prompt_id: str) -> Path:
        return self._records_directory / f"{prompt_id}.json"

    def _cache_path(self, cache_hash: str) -> Path:
        return self._caches_directory / f"{cache_hash}.safetensors"

    def _unwritable(self, error: OSError) -> StoreUnwritableError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space" if full else "make it readable and writable"
        return StoreUnwritableError(
            f"the store {self.directory} cannot be used ({error}); {remedy}, "
            "or choose another directory with --store"
        )

    def _create_directories(self) -> None:
        for directory in (self._records_directory, self._caches_directory, self._quarantine):
            directory.mkdir(parents=True, exist_ok=True)
            probe = directory / f".probe{TEMPORARY_SUFFIX}"
            write_atomic(probe, [], durable=False)
            probe.unlink()
        sync_directory(self.directory)

    def _open(self) -> None:
        for directory in (self._records_directory, self._caches_directory):
            for path in directory.glob(f".*{TEMPORARY_SUFFIX}"):
                path.unlink()
        for path in sorted(self._records_directory.glob("*.json")):
            self._open_record(path)
        # A record that cannot be read may name any of the caches that now seem unused.
        keep_unused = bool(self.quarantined)
        self._check_caches()
        for path in sorted(self._caches_directory.iterdir()):
            match = _CACHE_FILE.fullmatch(path.name)
            if match is None or self._index.uses_cache(match[1]):
                continue
            if keep_unused:
                self._move_to_quarantine(path, "no readable record uses it")
            else:
                logger.info("removing %s, which no record uses", path)
                path.unlink()

    def _open_record(self, path: Path) -> None:
        try:
            record = PromptRecord.from_bytes(path.read_bytes())
            if record.id != path.stem:
                raise PromptRecordError(f"prompt record holds the prompt {record.id}")
            self._index.add(record)
        except (OSError, PromptRecordError, PromptNameTakenError) as error:
            _raise_if_transient(error)
            self._move_to_quarantine(path, str(error))

    def _check_caches(self) -> None:
        for cache_hash in {record.cache_hash for record in self._index}:
            path = self._cache_path(cache_hash)
            try:
                if self._verify_content:
                    _check_content_hash(path, GistCache.load(path).content_hash)
                else:
                    _check_content_hash(path, read_manifest(path)[1])
            except (OSError, GistCacheError) as error:
                _raise_if_transient(error)
                self._quarantine_cache(cache_hash, _reason(error))

    def _quarantine_cache(self, cache_hash: str, reason: str) -> None:
        """Set a broken cache aside with every record that uses it."""
        with self._memory:
            ids = [record.id for record in self._index if record.cache_hash == cache_hash]
        for prompt_id in ids:
            self._move_to_quarantine(self._record_path(prompt_id), f"its cache: {reason}")
            self._forget(prompt_id)
        self._move_to_quarantine(self._cache_path(cache_hash), reason)

    def _move_to_quarantine(self, path: Path, reason: str) -> None:
        if not path.exists():
            return
        target = self._quarantine / path.name
        number = 1
        while target.exists():
            number += 1
            target = self._quarantine / f"{path.name}.{number}"
        path.replace(target)
        self.quarantined.append((target, reason))
        logger.warning("moved %s to %s: %s", path, target, reason)


def _age(record: PromptRecord) -> tuple[int, str]:
    return record.created_at, record.id


def _reason(error: Exception) -> str:
    return "the file is missing" if isinstance(error, FileNotFoundError) else str(error)


def _raise_if_transient(error: Exception) -> None:
    """A file that cannot be read for want of memory or handles is not a broken file."""
    if isinstance(error, OSError) and error.errno in _TRANSIENT:
        raise error


def _check_content_hash(path: Path, content_hash: str) -> None:
    if path.stem != content_hash:
        raise GistCacheError(f"{path} holds the cache {content_hash}", field="content_hash")
