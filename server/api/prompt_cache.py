"""Makes prompts' caches and keeps them in the store; blocking work runs in threads."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio.to_thread

from ...compress.cache import GistCache
from ...compress.errors import (
    PromptNameTakenError,
    PromptNotFoundError,
    StoreFullError,
    StoreUnwritableError,
)
from ...compress.record import PromptRecord
from ...compress.store import GistStore
from .cache_tiers import CacheTiers
from .errors import ApiError, from_engine, prompt_not_found
from .prompt_entry import PromptEntry
from .prompt_memory import PromptMemory
from .served_models import ServedModel

logger = logging.getLogger(__name__)

T = TypeVar("T")


class PromptCaches:
    """The store of registered prompts, and the tiers over it that requests read from.

    Args:
        models: the served models by name.
        store: keeps records and caches; the caller closes it.
        memory: budgets of the tiers.
    """

    def __init__(
        self, models: Mapping[str, ServedModel], store: GistStore, memory: PromptMemory
    ) -> None:
        self._models = models
        self._store = store
        self.tiers = CacheTiers(models, self._load, memory)

    @property
    def disk_limit(self) -> int | None:
        """Bytes that the store may take; None where only the disk limits it."""
        return self._store.max_bytes

    async def make(self, record: PromptRecord) -> tuple[PromptRecord, GistCache]:
        """Compresses a prompt and stores it; all of it or nothing.

        Raises:
            ApiError: 400 for a prompt that does not fit the model, 507 where the cache is larger
                than a tier, or the store is full.
        """
        model = self._models[record.model]
        slots = _num_slots(model, record)
        self.tiers.check_fits(model, slots)
        try:
            self._store.check_room(slots * model.engine.info.kv_bytes_per_token)
        except StoreFullError as error:
            raise _store_full(error) from error
        try:
            cache = await self.tiers.with_room(model, lambda: _compress(model, record))
            model.engine.check_cache(cache)
            cache = await _in_thread(lambda: cache.to("cpu"))
            return await _in_thread(lambda: self._store.put(record, cache)), cache
        except Exception as error:
            raise from_engine(error, model.max_model_len) from error

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
        try:
            await _in_thread(lambda: self._store.edit(prompt_id, **changes))
        except PromptNotFoundError as error:
            raise prompt_not_found(prompt_id) from error

    async def forget(self, record: PromptRecord) -> None:
        """Removes a prompt from the store; one that is not there is no error."""
        try:
            await _in_thread(lambda: self._store.delete(record.id))
        except PromptNotFoundError:
            return

    def release(self, entry: PromptEntry) -> None:
        """Frees an entry's cache in every tier, unless another prompt uses it too."""
        self.tiers.release(entry.cache)

    async def flush(self) -> None:
        """Writes the usage counters."""
        await _in_thread(self._store.flush)

    async def _load(self, prompt_id: str) -> GistCache:
        return await _in_thread(lambda: self._store.load_cache(prompt_id))


async def _compress(model: ServedModel, record: PromptRecord) -> GistCache:
    return await asyncio.wrap_future(model.engine.compress(record.prompt_token_ids, record.method))


def _num_slots(model: ServedModel, record: PromptRecord) -> int:
    """Slots that the prompt's cache will have."""
    if record.method == "prefix" or model.adapter is None:
        return record.prompt_tokens
    sink = min(model.adapter.config.sink_tokens, record.prompt_tokens)
    return sink + record.gist_tokens


def _store_full(error: StoreFullError) -> ApiError:
    return ApiError(507, f"{str(error)[0].upper()}{str(error)[1:]}.", code="store_full")


async def _in_thread(work: Callable[[], T]) -> T:
    """Runs store work off the event loop; what a client can be told becomes an ApiError."""
    try:
        return await anyio.to_thread.run_sync(work)
    except PromptNameTakenError as error:
        raise ApiError(409, f"{error}.", param="name", code="name_taken") from error
    except StoreFullError as error:
        raise _store_full(error) from error
    except StoreUnwritableError as error:
        logger.error("%s", error)
        raise ApiError(
            507, "The prompt store cannot be written.", code="store_unwritable"
        ) from error
