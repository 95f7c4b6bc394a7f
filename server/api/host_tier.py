"""Copies of prompts' caches in main memory, from where they come back without the disk."""

from ...compress.cache import GistCache
from .byte_budget import ByteBudget
from .held_cache import HeldCache


class HostTier:
    """Copies of the caches that were used last, those on the device among them.

    Args:
        limit: bytes that the copies may take; 0 keeps none.
    """

    def __init__(self, limit: int) -> None:
        self._budget: ByteBudget[HeldCache] = ByteBudget(limit)

    @property
    def limit(self) -> int:
        return self._budget.limit

    def keep(self, held: HeldCache, cache: GistCache) -> None:
        """Keeps a cache that lies in main memory; one larger than the whole tier is not kept."""
        self.drop(held)
        if held.num_bytes > self.limit:
            return
        for victim in self._budget.victims(held.num_bytes):
            self.drop(victim)
        self._budget.add(held, held.num_bytes)
        held.copy = cache

    def touch(self, held: HeldCache) -> None:
        """Notes that a cache was used."""
        self._budget.touch(held)

    def drop(self, held: HeldCache) -> None:
        """Frees a copy; nothing happens where there is none."""
        self._budget.discard(held)
        held.copy = None
