"""GistStore: registered prompts and their caches in a directory, safe against crashes.

A prompt exists exactly if its record does: the cache is written before the record and removed
after it. Every file appears by a rename, so a crash leaves at most files that no record needs.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch

from .cache import GistCache
from .errors import (
    GistCacheError,
    GistStoreError,
    PromptRecordError,
    StoreFullError,
    StoreUnwritableError,
)
from .record import PromptRecord, new_prompt_id
from .store_files import StoreFiles, fault
from .store_recovery import quarantine_cache, recover

__all__ = ["GistStore", "PromptRecord", "new_prompt_id"]

logger = logging.getLogger(__name__)

Records = list[PromptRecord]


class GistStore:
    """The prompts registered under `directory`, which is created where missing.

    All methods are thread-safe. A method that changes something returns when the change is on
    the disk (`durable=False` aside) or raises with the old state kept. Records are immutable:
    change one with `edit`, or with `dataclasses.replace` and `update`.

    Opening moves broken records and caches to `quarantine/` and lists them in `quarantined`;
    `verify_content=False` leaves the check of the caches' bytes to `load_cache` (faster for stores
    of many gigabytes). What would make records and caches larger than `max_bytes` on the disk is
    refused (None: as the disk allows; the quarantine does not count). Changes made with
    `durable=False` are written after `flush_seconds`, by `flush` and by `close`. A kill loses them;
    prompts that uses keep alive then live `flush_seconds` longer, so that none expires too early.
    Raises StoreUnwritableError and StoreLockedError.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        max_bytes: int | None = None,
        verify_content: bool = True,
        flush_seconds: float = 30.0,
    ) -> None:
        self.directory = Path(directory).expanduser()
        self.max_bytes = max_bytes
        self._flush_seconds = flush_seconds
        self._dirty: set[str] = set()
        self._timer: threading.Timer | None = None
        self._closed = False
        # Writers hold _disk for a whole operation, and _memory only to look or to swap a record,
        # so that look-ups and counters never wait for the disk. Order: _disk, then _memory.
        self._disk = threading.RLock()
        self._memory = threading.RLock()
        self._files = StoreFiles(self.directory)
        try:
            self._index = recover(self._files, verify_content=verify_content)
        except BaseException as error:
            self._files.close()
            if isinstance(error, OSError):
                raise self._files.unwritable(error) from error
            raise
        if self._files.is_unflushed():
            self._make_up_for_lost_uses()

    @property
    def quarantined(self) -> list[tuple[Path, str]]:
        """Files that were moved to quarantine/ since the store was opened, with the reasons."""
        return list(self._files.quarantined)

    @property
    def num_bytes(self) -> int:
        """Bytes of all records and caches on the disk."""
        return self._files.num_bytes

    def check_room(self, num_bytes: int) -> None:
        """Raise StoreFullError unless the store may grow by so many bytes."""
        if self.max_bytes is not None and self.num_bytes + num_bytes > self.max_bytes:
            raise StoreFullError(
                f"the prompt store is full: {self.num_bytes} of {self.max_bytes} bytes are taken "
                f"and {num_bytes} more are needed; delete prompts, or raise --store-limit"
            )

    def put(self, record: PromptRecord, cache: GistCache) -> PromptRecord:
        """Store a prompt with its cache, replacing any of the same id; return it as stored.

        The fields that describe the cache are filled in from it. Raises PromptNameTakenError,
        PromptRecordError (record and cache do not belong together), GistCacheError (the cache
        names no model), StoreFullError, StoreUnwritableError.
        """
        record = record.for_cache(cache)
        num_bytes = len(record.to_bytes())  # refuses what JSON cannot hold
        with self._disk:
            with self._memory:
                self._check_open()
                self._index.check_name(record)
                old = self._index.find(record.id)
            if not self._files.has_cache(record.cache_hash):
                num_bytes += cache.file_bytes
            self.check_room(num_bytes)
            with self._writing(record):
                self._files.write_cache(cache)
                self._files.write_record(record)
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

        With `durable` false the change is in memory at once and on the disk later, whatever room
        is there. Raises PromptNotFoundError, PromptNameTakenError, PromptRecordError (another
        cache: use `put`), StoreFullError (a change that makes the record larger),
        StoreUnwritableError.
        """
        return self._change(record.id, lambda _: record, durable)

    def edit(self, prompt_id: str, *, durable: bool = True, **changes: Any) -> PromptRecord:
        """Set the fields in `changes`, whatever other threads change meanwhile; as `update`."""
        return self._change(prompt_id, lambda current: replace(current, **changes), durable)

    def count_use(self, prompt_id: str, *, tokens_saved: int, at: float) -> None:
        """Count one request that used a prompt, and lengthen the life of one with a `ttl`.

        Written later. A deleted prompt is no error.
        """
        with self._memory:
            record = self._index.find(prompt_id)
            if record is None or self._closed:
                return
            self._index.add(record.used(tokens_saved=tokens_saved, at=at))
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
                self._files.remove_record(prompt_id)
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
            cache = self._files.read_cache(self.get(prompt_id).cache_hash, device)
        except (OSError, GistCacheError):
            with self._disk:  # now nobody replaces or removes it while it is read
                cache_hash = self.get(prompt_id).cache_hash
                try:
                    cache = self._files.read_cache(cache_hash, device)
                except (OSError, GistCacheError) as error:
                    reason = fault(error)
                    with self._memory:
                        quarantine_cache(self._files, self._index, cache_hash, reason)
                    raise GistCacheError(
                        f"the cache of {prompt_id} is broken and was moved to "
                        f"{self.directory / 'quarantine'} ({reason}); register the prompt again"
                    ) from error
        cache.manifest.verify(expect or {})
        return cache

    def flush(self) -> None:
        """Write the changes that were made with `durable=False`. Raises StoreUnwritableError."""
        with self._disk:
            with self._memory:
                found = [self._index.find(prompt_id) for prompt_id in self._dirty]
                dirty = [record for record in found if record is not None]
                self._dirty.clear()
            for position, record in enumerate(dirty):
                try:
                    self._files.write_record(record)
                except OSError as error:
                    with self._memory:
                        self._dirty.update(unwritten.id for unwritten in dirty[position:])
                    raise self._files.unwritable(error) from error
            with self._memory:
                if not self._dirty:
                    self._files.clear_unflushed()

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
                self._files.close()

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
                growth = len(changed.to_bytes()) - len(self._index.get(prompt_id).to_bytes())
            if growth > 0:
                self.check_room(growth)
            with self._writing(changed):
                self._files.write_record(changed)
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

    def _make_up_for_lost_uses(self) -> None:
        for record in list(self._index):
            if record.ttl is not None and record.expires_at is not None:
                latest = record.expires_at + self._flush_seconds
                self.edit(record.id, durable=False, expires_at=latest)

    def _mark_dirty(self, prompt_id: str) -> None:
        if not self._dirty:
            self._note_unflushed()
        self._dirty.add(prompt_id)
        if self._timer is None and not self._closed:
            self._timer = threading.Timer(self._flush_seconds, self._flush_later)
            self._timer.daemon = True
            self._timer.start()

    def _note_unflushed(self) -> None:
        try:
            self._files.mark_unflushed()
        except OSError as error:
            logger.warning("a kill may end prompts early: %s", error)

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
                raise self._files.unwritable(error) from error
            raise

    def _resynchronise(self, record: PromptRecord) -> None:
        try:
            found = self._files.read_record(record.id)
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
        self._files.remove_cache(cache_hash)


def _age(record: PromptRecord) -> tuple[int, str]:
    return record.created_at, record.id
