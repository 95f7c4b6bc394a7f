"""Where the caches of registered prompts lie: on a device, copied in main memory, or on the disk.

A prompt's cache is always in the store on the disk. Requests need it on the device: there it is
brought when it is used, from its copy in main memory or from the disk.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from ...compress.cache import GistCache
from ...compress.errors import GistCacheError, PromptNotFoundError
from ...compress.fingerprint import differing_parts
from ...compress.record import PromptRecord
from ..engine.errors import CacheFullError, EngineError
from ..engine.pinned import PinnedCache
from .device_tier import DeviceTier, RequestSize
from .errors import ApiError, from_engine, prompt_not_found, prompt_unavailable
from .held_cache import TIERS, HeldCache, Tier
from .host_tier import HostTier
from .prompt_entry import PromptEntry
from .prompt_memory import PromptMemory
from .served_models import ServedModel

logger = logging.getLogger(__name__)

T = TypeVar("T")


class CacheTiers:
    """Brings caches to the devices when they are used, and keeps each tier within its budget.

    Args:
        models: the served models by name.
        load: reads a prompt's cache from the store.
        memory: the budgets.

    Raises:
        ValueError: a budget is larger than a model's key/value cache.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        load: Callable[[str], Awaitable[GistCache]],
        memory: PromptMemory,
    ) -> None:
        self._models = models
        self._load = load
        self._devices = {
            name: DeviceTier(model.engine, memory.device_limit(name, model.engine.info))
            for name, model in models.items()
        }
        self._host = HostTier(memory.host_limit(model.engine.info for model in models.values()))
        self._held: dict[tuple[str, str], HeldCache] = {}
        self._num_loads: Counter[tuple[str, Tier]] = Counter()

    # --- which caches there are ---

    def hold(self, record: PromptRecord) -> HeldCache:
        """The cache of one more registered prompt; its `error` says why it cannot be used."""
        key = record.model, record.cache_hash
        held = self._held.get(key)
        if held is None:
            held = HeldCache(record.model, record.cache_hash, record.slots, record.cache_bytes)
            self._held[key] = held
        held.num_prompts += 1
        held.error = self._fault(record)
        return held

    def release(self, held: HeldCache) -> None:
        """One prompt less uses a cache; with the last one it is freed in every tier.

        Running requests keep its blocks until they end.
        """
        held.num_prompts -= 1
        if held.num_prompts:
            return
        del self._held[held.model, held.cache_hash]
        self._host.drop(held)
        if held.model in self._devices:
            self._devices[held.model].let_go(held)

    def check_fits(self, model: ServedModel, slots: int) -> None:
        """Raises ApiError (507) for a cache that could not lie on the device even alone."""
        if (reason := self._lack(model.name, slots)) is not None:
            raise ApiError(507, reason, code="prompt_memory_too_small")

    def _fault(self, record: PromptRecord) -> str | None:
        model = self._models.get(record.model)
        if model is None:
            return f"The model `{record.model}` is not served."
        if record.model_fingerprint != model.fingerprint:
            parts = ", ".join(differing_parts(record.model_fingerprint, model.fingerprint))
            return (
                f"Its cache was made by another model (other {parts or 'weights'}); register the "
                "prompt again."
            )
        if record.next_position >= model.max_model_len:
            return (
                f"It takes {record.next_position} positions of the model's "
                f"{model.max_model_len}; raise --max-model-len."
            )
        return self._lack(record.model, record.slots)

    def _lack(self, model_name: str, slots: int) -> str | None:
        device = self._devices[model_name]
        if device.size(slots) <= device.limit:
            return None
        return (
            f"Its cache takes {device.size(slots)} bytes of the model's key/value cache, of which "
            f"registered prompts may take {device.limit}; raise --prompt-memory."
        )

    # --- bringing them to the device ---

    def has_room(self, model: ServedModel, request: RequestSize) -> bool:
        """Whether a request behind no prompt fits beside the prompts on the device."""
        return self._devices[model.name].has_room(request, None)

    @asynccontextmanager
    async def on_device(
        self, model: ServedModel, entry: PromptEntry | None, request: RequestSize
    ) -> AsyncIterator[PinnedCache | None]:
        """Room for a request in its engine's pool, and the cache of the prompt that it follows.
        Both stay there while nothing is awaited: submit the request at once.

        Who comes first is served first. Two requests for one prompt load it once. Other prompts
        leave the device where the request would not fit beside them.

        Raises:
            ApiError: 404 for a prompt deleted meanwhile, 400 where its cache proves broken, 503
                where it can only not be had now.
        """
        device, held = self._devices[model.name], entry.cache if entry else None
        is_there = held is None or held.pinned is not None
        if is_there and device.has_room(request, held):
            yield self._used(entry)
            return
        async with device.turn:
            if entry is None:
                await device.make_room(request, None)
            else:
                await self._bring_in_with_room(entry, request)
            yield self._used(entry)

    async def _bring_in_with_room(self, entry: PromptEntry, request: RequestSize) -> None:
        held = entry.cache
        while True:
            if held.pinned is None:
                await self._bring_in(entry)
            await self._devices[held.model].make_room(request, held)
            if held.pinned is not None:  # else it had to make room itself, or is gone
                return

    async def settle(self, entry: PromptEntry, cache: GistCache) -> None:
        """Keeps a cache that has just been made as near to the device as nobody has to wait for.

        Raises nothing that is not the caller's own cancellation: the prompt is in the store.
        """
        held = entry.cache
        self._host.keep(held, cache)
        device = self._devices[held.model]
        if device.turn.locked():
            return
        async with device.turn:
            if held.pinned is not None or not device.has_idle_room(held):
                return
            try:
                await device.bring_in(held, cache)
            except (EngineError, ValueError) as error:
                logger.info("prompt %s stays in the store for now: %s", entry.record.id, error)
            self._let_go_if_deleted(held)

    async def with_room(self, model: ServedModel, attempt: Callable[[], Awaitable[T]]) -> T:
        """Attempts what needs blocks of a model's pool, demoting idle prompts where it must."""
        return await self._devices[model.name].with_room(attempt)

    def _used(self, entry: PromptEntry | None) -> PinnedCache | None:
        if entry is None:
            return None
        entry.check_usable()
        held = entry.cache
        assert held.pinned is not None
        self._devices[held.model].touch(held)
        self._host.touch(held)
        return held.pinned

    async def _bring_in(self, entry: PromptEntry) -> None:
        entry.check_usable()
        held, model = entry.cache, self._models[entry.cache.model]
        source = held.tier
        try:
            cache = held.copy or await self._load(entry.record.id)
            await self._devices[held.model].bring_in(held, cache)
        except PromptNotFoundError as error:
            raise prompt_not_found(entry.record.id) from error
        except CacheFullError as error:
            raise prompt_unavailable(str(error)) from error
        except EngineError as error:
            raise from_engine(error, model.max_model_len) from error
        except (GistCacheError, ValueError) as error:
            held.error = f"Its cache could not be restored: {str(error).rstrip('.')}."
            logger.warning("prompt %s is not used: %s", entry.record.id, held.error)
        except OSError as error:
            logger.warning("prompt %s: %s", entry.record.id, error)
            raise prompt_unavailable("The prompt's cache cannot be read just now.") from error
        else:
            self._num_loads[held.model, source] += 1
            self._let_go_if_deleted(held)
            if held.num_prompts and held.copy is None:
                self._host.keep(held, cache)

    def _let_go_if_deleted(self, held: HeldCache) -> None:
        if not held.num_prompts:
            self._devices[held.model].let_go(held)

    # --- what an operator sees ---

    def bytes_by_tier(self, held: HeldCache) -> dict[Tier, int]:
        """What a cache takes in each tier."""
        on_device = self._devices[held.model].size(held.slots) if held.pinned else 0
        return {
            "device": on_device,
            "host": held.num_bytes if held.copy else 0,
            "disk": held.num_bytes,
        }

    def held(self, model_name: str) -> Iterator[HeldCache]:
        """The usable caches of a model."""
        return (h for h in self._held.values() if h.model == model_name and h.error is None)

    def device_limit(self, model_name: str) -> int:
        return self._devices[model_name].limit

    @property
    def host_limit(self) -> int:
        return self._host.limit

    def num_loads(self, model_name: str) -> dict[Tier, int]:
        """How often a cache came back to the device, by the tier that it came from."""
        return {tier: self._num_loads[model_name, tier] for tier in TIERS if tier != "device"}

    def num_demotions(self, model_name: str) -> int:
        """How often a cache left the device for another."""
        return self._devices[model_name].num_demotions
