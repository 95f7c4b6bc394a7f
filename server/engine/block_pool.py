"""Blocks of the key/value cache: who uses which, and which still hold a known prefix.

A block is in one of three states: *used* (reference count above 0), *cached* (nobody uses it, but
its content is known by hash and may be used again), or *blank*. Blank blocks are handed out first,
then the cached ones that were used least recently. Every operation is O(1) a block.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from .errors import CacheFullError

ROOT_HASH = bytes(32)
"""Parent of a sequence's first block where nothing is pinned before it."""


def hash_block(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Identity of a full block's content: its tokens and all that lies before them.

    Cryptographic (BLAKE2b, 256 bits), since a collision would show one user another's prompt.
    ``parent`` is 32 bytes: the previous block's hash, a pinned cache's key, or ``ROOT_HASH``.
    """
    return hashlib.blake2b(parent + array("q", token_ids).tobytes(), digest_size=32).digest()


class BlockPool:
    """Reference-counted blocks with a hash-addressed cache of full ones.

    Args:
        num_blocks: blocks in the pool, numbered from 0.
        block_size: slots in a block.
    """

    def __init__(self, num_blocks: int, block_size: int = 16) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"a pool of {num_blocks} blocks of {block_size} slots holds nothing")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._ref_counts = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._block_by_hash: dict[bytes, int] = {}
        self._blank = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first

    @property
    def num_free(self) -> int:
        """Blocks that ``allocate`` can hand out: blank and cached ones."""
        return len(self._blank) + len(self._cached)

    @property
    def num_used(self) -> int:
        """Blocks with a reference count above 0."""
        return self.num_blocks - self.num_free

    def ref_count(self, block_id: int) -> int:
        return self._ref_counts[block_id]

    def is_registered(self, block_id: int) -> bool:
        """Whether the block can be found by its content; such a block must not be written."""
        return self._hashes[block_id] is not None

    def allocate(self, count: int) -> list[int]:
        """Takes ``count`` blocks of unknown content, each with one reference; ascending.

        Raises:
            CacheFullError: if fewer are free; then none is taken.
        """
        if count > self.num_free:
            raise CacheFullError(f"{count} blocks are needed, {self.num_free} are free")
        taken = []
        for _ in range(count):
            block_id = self._blank.pop() if self._blank else self._evict()
            self._ref_counts[block_id] = 1
            taken.append(block_id)
        taken.sort()  # what a sequence reads in a row then lies in a row where it can
        return taken

    def retain(self, block_ids: Iterable[int]) -> None:
        """Adds a reference to each block, which must be used or cached."""
        for block_id in block_ids:
            if self._ref_counts[block_id] == 0:
                if self._hashes[block_id] is None:
                    raise RuntimeError(f"block {block_id} is blank and cannot be shared")
                del self._cached[block_id]
            self._ref_counts[block_id] += 1

    def release(self, block_ids: Sequence[int]) -> None:
        """Drops one reference of each block of a sequence.

        The sequence's last blocks are evicted before its first ones: more requests share those.
        """
        for block_id in reversed(block_ids):
            count = self._ref_counts[block_id] - 1
            if count < 0:
                raise RuntimeError(f"block {block_id} was released more often than retained")
            self._ref_counts[block_id] = count
            if count:
                continue
            if self._hashes[block_id] is None:
                self._blank.append(block_id)
            else:
                self._cached[block_id] = None

    def register(self, block_id: int, block_hash: bytes) -> None:
        """Makes a used block findable by its content, unless an equal one already is."""
        if self._ref_counts[block_id] == 0:
            raise RuntimeError(f"block {block_id} is not in use and cannot be registered")
        if self._hashes[block_id] is not None:
            raise RuntimeError(f"block {block_id} is registered already")
        if self._block_by_hash.setdefault(block_hash, block_id) == block_id:
            self._hashes[block_id] = block_hash

    def forget(self, block_ids: Iterable[int]) -> None:
        """Makes blocks unfindable, whatever uses them; for content that is not to be trusted."""
        for block_id in block_ids:
            block_hash = self._hashes[block_id]
            if block_hash is None:
                continue
            del self._block_by_hash[block_hash]
            self._hashes[block_id] = None
            if self._ref_counts[block_id] == 0:
                del self._cached[block_id]
                self._blank.append(block_id)

    def match(self, block_hashes: Iterable[bytes]) -> list[int]:
        """Blocks of the longest known prefix of a hash chain; takes no references."""
        found = []
        for block_hash in block_hashes:
            block_id = self._block_by_hash.get(block_hash)
            if block_id is None:
                break
            found.append(block_id)
        return found

    def count_free(self, block_ids: Iterable[int]) -> int:
        """How many of the blocks count towards ``num_free``."""
        return sum(self._ref_counts[block_id] == 0 for block_id in block_ids)

    def check(self) -> None:
        """Raises RuntimeError if the pool's records contradict each other (O(num_blocks))."""
        blank, cached = set(self._blank), set(self._cached)
        used = {i for i, count in enumerate(self._ref_counts) if count > 0}
        states = [blank, cached, used]
        if len(self._blank) != len(blank) or sum(map(len, states)) != self.num_blocks:
            raise RuntimeError("a block is in two states, or in none")
        if blank | cached | used != set(range(self.num_blocks)):
            raise RuntimeError("a block is lost")
        if any(self._hashes[i] is None for i in cached) or any(self._hashes[i] for i in blank):
            raise RuntimeError("a cached block has no hash, or a blank one has")
        by_hash = {h: i for i, h in enumerate(self._hashes) if h is not None}
        if by_hash != self._block_by_hash:
            raise RuntimeError("the hash table points to other blocks than those registered")

    def _evict(self) -> int:
        block_id, _ = self._cached.popitem(last=False)
        block_hash = self._hashes[block_id]
        assert block_hash is not None
        del self._block_by_hash[block_hash]
        self._hashes[block_id] = None
        return block_id
