"""The pinned caches of a pool, and who still needs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .block_pool import BlockPool
from .pinned import PinnedCache


@dataclass(slots=True)
class _Entry:
    pinned: PinnedCache
    num_pins: int = 1
    num_requests: int = 0
    on_free: list[Callable[[], None]] = field(default_factory=list)


class PinTable:
    """Keeps each pinned cache's blocks until it is unpinned and no request uses it."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._entries: dict[bytes, _Entry] = {}
        self.num_blocks = 0
        """Blocks that pinned caches hold."""

    def __len__(self) -> int:
        return len(self._entries)

    def is_pinned(self, pinned: PinnedCache) -> bool:
        """Whether new requests may use the cache."""
        entry = self._entries.get(pinned.key)
        return entry is not None and entry.pinned is pinned and entry.num_pins > 0

    def is_used(self, pinned: PinnedCache) -> bool:
        """Whether a queued or running request depends on the cache; may be asked by any thread."""
        entry = self._entries.get(pinned.key)
        return entry is not None and entry.num_requests > 0

    def pin_again(self, key: bytes) -> PinnedCache | None:
        """Counts one more pin of a cache that is still in the pool; ``None`` if it is not."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry.num_pins += 1
        self._report_free(entry)  # whoever waited need not wait for another's pin
        return entry.pinned

    def add(self, pinned: PinnedCache) -> None:
        """Takes over the caller's references to the cache's blocks."""
        if pinned.key in self._entries:
            raise RuntimeError("a cache of the same content is pinned already")
        self._entries[pinned.key] = _Entry(pinned)
        self.num_blocks += len(pinned.block_ids)

    def unpin(self, pinned: PinnedCache, on_free: Callable[[], None]) -> None:
        """Undoes one pin. ``on_free`` is called when its blocks are free, or at once if others
        pinned the same content.

        Raises:
            ValueError: if the cache is not pinned.
        """
        if not self.is_pinned(pinned):
            raise ValueError("the cache is not pinned (any more)")
        entry = self._entries[pinned.key]
        entry.num_pins -= 1
        entry.on_free.append(on_free)
        if entry.num_pins:
            self._report_free(entry)
        self._free_if_unused(entry)

    def enter(self, pinned: PinnedCache) -> None:
        """A request starts to depend on the cache.

        Raises:
            ValueError: if the cache is not pinned.
        """
        if not self.is_pinned(pinned):
            raise ValueError("the request's pinned cache has been unpinned")
        self._entries[pinned.key].num_requests += 1

    def leave(self, pinned: PinnedCache) -> None:
        """A request no longer depends on the cache."""
        entry = self._entries[pinned.key]
        entry.num_requests -= 1
        self._free_if_unused(entry)

    def _free_if_unused(self, entry: _Entry) -> None:
        if entry.num_pins or entry.num_requests:
            return
        del self._entries[entry.pinned.key]
        self.num_blocks -= len(entry.pinned.block_ids)
        self._pool.release(entry.pinned.block_ids)
        self._report_free(entry)

    @staticmethod
    def _report_free(entry: _Entry) -> None:
        callbacks, entry.on_free = entry.on_free, []
        for callback in callbacks:
            callback()
