"""A prompt's cache that lies in the block pool for as long as it is pinned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, eq=False)
class PinnedCache:
    """Handle on a gist or prefix cache in the block pool; made by ``Engine.pin`` only.

    Slots count memory, positions count context: a gist of ``slots`` slots stands for
    ``next_position`` positions. Both are equal for a prefix cache.
    """

    key: bytes
    """Hash of the cache's content; it starts the block-hash chain of every request that uses it."""
    method: Literal["gist", "prefix"]
    slots: int
    next_position: int
    """Position of the first token after the cache."""
    prompt_tokens: int
    """Tokens of the prompt that the cache stands for."""
    block_ids: tuple[int, ...]
    """Blocks that hold the slots in order. Full ones are shared by reference; a partly filled last
    one is copied for each sequence."""
    num_bytes: int
    """Bytes of keys and values in the slots."""

    @property
    def num_gist_slots(self) -> int:
        """Slots that stand for a compressed prompt; 0 for a prefix cache."""
        return self.slots if self.method == "gist" else 0
