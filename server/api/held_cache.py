"""One cache of registered prompts, and where it lies besides the store on the disk."""

from dataclasses import dataclass
from typing import Literal

from ...compress.cache import GistCache
from ..engine.pinned import PinnedCache

Tier = Literal["device", "host", "disk"]
TIERS: tuple[Tier, ...] = ("device", "host", "disk")


@dataclass(slots=True, eq=False)
class HeldCache:
    """A cache that prompts of equal content and model share.

    slots: its places in the engine's cache; num_bytes: of its keys and values; num_prompts: how
    many registered prompts use it; pinned: in the engine's block pool; copy: in main memory;
    error: why it cannot be used, where that is so.
    """

    model: str
    cache_hash: str
    slots: int
    num_bytes: int
    num_prompts: int = 0
    pinned: PinnedCache | None = None
    copy: GistCache | None = None
    error: str | None = None

    @property
    def tier(self) -> Tier:
        """Where a request would find it first."""
        if self.pinned is not None:
            return "device"
        return "disk" if self.copy is None else "host"
