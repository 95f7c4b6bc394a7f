"""The prompts' caches that are pinned in one engine, within a budget of bytes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import anyio.to_thread

from ...compress.cache import GistCache
from ..engine.engine import Engine
from ..engine.errors import CacheFullError, EngineDeadError
from ..engine.pinned import PinnedCache
from .byte_budget import ByteBudget
from .held_cache import HeldCache

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RequestSize:
    """Tokens of a request's longest sequence, behind its registered prompt.

    prompt: those it begins with; output: those it may add, as far as it says.
    """

    prompt: int
    output: int


class DeviceTier:
    """Pins caches where there is room, and demotes those used least recently to make it.

    A demoted cache is not lost: it is in the store, and comes back when it is used. Caches are
    brought in, and large requests given room, one at a time, first come first served, by whoever
    holds `turn`.

    Args:
        engine: in whose block pool the caches lie.
        limit: bytes of blocks that pinned caches may take.
    """

    def __init__(self, engine: Engine, limit: int) -> None:
        self.turn = asyncio.Lock()
        self.num_demotions = 0
        self._engine = engine
        self._budget: ByteBudget[HeldCache] = ByteBudget(limit)
        self._leaving: set[Future[None]] = set()

    @property
    def limit(self) -> int:
        return self._budget.limit

    def size(self, slots: int) -> int:
        """Bytes of the blocks that so many slots take; a block counts whole."""
        info = self._engine.info
        return -(-slots // info.block_size) * info.block_size * info.kv_bytes_per_token

    def touch(self, held: HeldCache) -> None:
        """Notes that a cache is used."""
        self._budget.touch(held)

    def has_idle_room(self, held: HeldCache) -> bool:
        """Whether a cache could be pinned without waiting for requests to end."""
        size = self.size(held.slots)
        return size <= self.limit and not any(
            map(self._is_busy, self._budget.victims(size, self._is_busy))
        )

    async def bring_in(self, held: HeldCache, cache: GistCache) -> None:
        """Pins a cache; waits for requests that use what must go. The caller holds `turn`.

        Raises:
            ValueError: the cache is larger than the whole budget, or not of the model's shape.
            EngineError: the engine has no room beside its requests, or has stopped.
            GistCacheError: another model made the cache.
        """
        size = self.size(held.slots)
        gone = [self._demote(victim) for victim in self._budget.victims(size, self._is_busy)]
        for blocks_are_free in gone:
            await blocks_are_free
        self._budget.add(held, size)
        try:
            held.pinned = await self.with_room(lambda: self._pin(cache))
        except BaseException:
            self._budget.discard(held)
            raise

    def has_room(self, request: RequestSize, held: HeldCache | None) -> bool:
        """Whether a request, behind `held` if any, fits beside what is or may be pinned now."""
        coming = self._blocks(self.limit) if self.turn.locked() else 0
        pinned = max(coming, self._engine.stats().num_pinned_blocks)
        return self._blocks_needed(request, held) <= self._engine.info.num_blocks - pinned

    async def make_room(self, request: RequestSize, held: HeldCache | None) -> None:
        """Demotes other caches until a request fits, idle ones first; waits for requests that use
        what must go. The caller holds `turn`.

        One that would not fit even alone gets no room.
        """
        needed, num_blocks = self._blocks_needed(request, held), self._engine.info.num_blocks
        while needed > num_blocks - self._engine.stats().num_pinned_blocks:
            others = (other for other in self._budget if other.pinned and other is not held)
            victim = min(others, key=self._is_busy, default=None)
            if victim is not None:
                await self._demote(victim)
            elif self._leaving:
                leaving = map(asyncio.wrap_future, list(self._leaving))
                await asyncio.wait(leaving, return_when=asyncio.FIRST_COMPLETED)
            else:
                return

    def _blocks_needed(self, request: RequestSize, held: HeldCache | None) -> int:
        """Blocks that are not `held`'s; 0 for a request that never fits, which the engine says."""
        info = self._engine.info
        slots = held.slots if held else 0
        most = info.num_blocks - -(-slots // info.block_size)

        def blocks(num_tokens: int) -> int:
            return -(-(slots + num_tokens) // info.block_size) - slots // info.block_size

        if blocks(request.prompt) > most:
            return 0
        return min(blocks(request.prompt + request.output), most)

    def _blocks(self, num_bytes: int) -> int:
        return num_bytes // (self._engine.info.block_size * self._engine.info.kv_bytes_per_token)

    async def with_room(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Attempts what needs blocks of the pool, demoting idle caches while they are too few.

        Raises what the attempt raises; CacheFullError only once no cache is idle.
        """
        while True:
            try:
                return await attempt()
            except CacheFullError:
                idle = (held for held in self._budget if held.pinned and not self._is_busy(held))
                victim = next(idle, None)
                if victim is None:
                    raise
                await self._demote(victim)

    def let_go(self, held: HeldCache) -> None:
        """Unpins a cache; requests that use it keep its blocks until they end."""
        pinned, held.pinned = held.pinned, None
        self._budget.discard(held)
        if pinned is not None:
            self._unpin(pinned)

    def _demote(self, held: HeldCache) -> Awaitable[None]:
        """Done when the blocks are free."""
        pinned, held.pinned = held.pinned, None
        self._budget.discard(held)
        self.num_demotions += 1
        assert pinned is not None, "only what is pinned is within the budget here"
        # Shielded, since a cancelled future would keep the engine from unpinning.
        return asyncio.shield(asyncio.wrap_future(self._unpin(pinned)))

    def _is_busy(self, held: HeldCache) -> bool:
        return held.pinned is not None and self._engine.is_used(held.pinned)

    async def _pin(self, cache: GistCache) -> PinnedCache:
        await anyio.to_thread.run_sync(lambda: cache.content_hash)  # reads all of it
        future = self._engine.pin(cache)
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            future.add_done_callback(self._undo_pin)
            raise

    def _undo_pin(self, future: "Future[PinnedCache]") -> None:
        if future.exception() is None:
            self._unpin(future.result())

    def _unpin(self, pinned: PinnedCache) -> "Future[None]":
        try:
            free = self._engine.unpin(pinned)
        except EngineDeadError:
            logger.debug("the engine has stopped; its pins are gone with it")
            done: Future[None] = Future()
            done.set_result(None)
            return done
        self._leaving.add(free)
        free.add_done_callback(self._leaving.discard)
        return free
