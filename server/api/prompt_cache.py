"""Moves prompts' caches between the store on disk and the engines; blocking work in threads."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio.to_thread

from ...compress.cache import GistCache
from ...compress.errors import (
    GistCacheError,
    PromptNameTakenError,
    PromptNotFoundError,
    StoreUnwritableError,
)
from ...compress.fingerprint import differing_parts
from ...compress.record import PromptRecord
from ...compress.store import GistStore
from ..engine.errors import EngineError
from ..engine.pinned import PinnedCache
from .errors import ApiError, from_engine
from .prompt_entry import PromptEntry
from .served_models import ServedModel

logger = logging.getLogger(__name__)

T = TypeVar("T")


class PromptCaches:
    """Makes, restores and releases the caches of registered prompts.

    Args:
        models: the served models by name.
        store: keeps records and caches; the caller closes it.
    """

    def __init__(self, models: Mapping[str, ServedModel], store: GistStore) -> None:
        self._models = models
        self._store = store

    async def make(self, record: PromptRecord) -> tuple[PromptRecord, PinnedCache]:
        """Compresses a prompt, pins its cache and stores both; all of it or nothing.

        Raises:
            ApiError: 400 for a prompt that does not fit the model, 507 where the engine's cache
                or the store has no room.
        """
        model = self._models[record.model]
        pinned = None
        try:
            tokens = record.prompt_token_ids
            cache = await asyncio.wrap_future(model.engine.compress(tokens, record.method))
            pinned = await self._pin(model, cache)
            return await _in_thread(lambda: self._store.put(record, cache)), pinned
        except BaseException as error:
            if pinned is not None:
                _unpin(model, pinned)
            if not isinstance(error, Exception):
                raise
            raise from_engine(error, model.max_model_len) from error

    async def restore(self, record: PromptRecord) -> tuple[PinnedCache | None, str | None]:
        """Pins a stored prompt's cache again; else says why it cannot be used."""
        model = self._models.get(record.model)
        if model is None:
            return None, f"The model `{record.model}` is not served."
        if record.model_fingerprint != model.fingerprint:
            parts = ", ".join(differing_parts(record.model_fingerprint, model.fingerprint))
            return None, (
                f"Its cache was made by another model (other {parts or 'weights'}); register the "
                "prompt again."
            )
        try:
            cache = await _in_thread(lambda: self._store.load_cache(record.id))
            return await self._pin(model, cache), None
        except (GistCacheError, EngineError, OSError, ValueError) as error:
            return None, f"Its cache could not be restored: {str(error).rstrip('.')}."

    async def records(self) -> list[PromptRecord]:
        return await _in_thread(self._store.list)

    def record(self, prompt_id: str) -> PromptRecord | None:
        """The store's present record; None if it has none. Does not wait for the disk."""
        try:
            return self._store.get(prompt_id)
        except PromptNotFoundError:
            return None

    def count_use(self, prompt_id: str, tokens_saved: int, at: int) -> None:
        """Counts one request in memory; the store writes it later."""
        self._store.count_use(prompt_id, tokens_saved=tokens_saved, at=at)

    async def edit(self, prompt_id: str, changes: Mapping[str, Any]) -> None:
        """Changes fields of a record on the disk. Raises ApiError."""
        await _in_thread(lambda: self._store.edit(prompt_id, **changes))

    async def forget(self, record: PromptRecord) -> None:
        """Removes a prompt from the store; one that is not there is no error."""
        try:
            await _in_thread(lambda: self._store.delete(record.id))
        except PromptNotFoundError:
            return

    def release(self, entry: PromptEntry) -> None:
        """Unpins an entry's cache; running requests keep it until they end."""
        model = self._models.get(entry.record.model)
        if entry.pinned is not None and model is not None:
            _unpin(model, entry.pinned)
        entry.pinned = None

    async def flush(self) -> None:
        """Writes the usage counters."""
        await _in_thread(self._store.flush)

    async def _pin(self, model: ServedModel, cache: GistCache) -> PinnedCache:
        # In a thread, since it hashes the whole cache.
        future = await anyio.to_thread.run_sync(model.engine.pin, cache)
        return await asyncio.wrap_future(future)


def _unpin(model: ServedModel, pinned: PinnedCache) -> None:
    try:
        model.engine.unpin(pinned)
    except EngineError:
        logger.debug("the engine has stopped; its pins are gone with it")


async def _in_thread(work: Callable[[], T]) -> T:
    """Runs store work off the event loop; what a client can be told becomes an ApiError."""
    try:
        return await anyio.to_thread.run_sync(work)
    except PromptNameTakenError as error:
        raise ApiError(409, f"{error}.", param="name", code="name_taken") from error
    except StoreUnwritableError as error:
        logger.error("%s", error)
        raise ApiError(
            507, "The prompt store cannot be written.", code="store_unwritable"
        ) from error
