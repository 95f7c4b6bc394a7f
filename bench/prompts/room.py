"""What lies where in the server's KV cache: slots, blocks, bytes, and how many prompts fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..load.errors import LoadError


@dataclass(frozen=True)
class Room:
    """A model's KV cache, as /server_info describes it.

    Attributes:
        num_blocks: of the pool.
        block_size: slots in a block; what is kept takes whole blocks.
        slot_bytes: keys and values of one slot, in all layers.
        max_model_len: most positions of a request, prompt and answer.
    """

    num_blocks: int
    block_size: int
    slot_bytes: int
    max_model_len: int

    @classmethod
    def of(cls, info: dict[str, Any] | None, model: str) -> Room:
        """Raises LoadError where /server_info does not tell of the model."""
        for told in (info or {}).get("models", []):
            if told["name"] == model:
                return cls(
                    num_blocks=told["num_blocks"],
                    block_size=told["block_size"],
                    slot_bytes=told["kv_bytes_per_token"],
                    max_model_len=told["max_model_len"],
                )
        raise LoadError(f"/server_info tells nothing of {model}; is it a gistserve server?")

    def blocks(self, slots: int) -> int:
        """Blocks that so many slots take."""
        return -(-slots // self.block_size)

    def kept_bytes(self, slots: int) -> int:
        """Bytes of the pool that a prompt of so many slots takes while it is kept."""
        return self.blocks(slots) * self.block_size * self.slot_bytes

    def prompts_in(self, budget: int, slots: int) -> int:
        """How many prompts of so many slots a budget of bytes keeps."""
        return budget // self.kept_bytes(slots)

    def blocks_of_load(
        self, pinned_slots: int, prompts: int, own_tokens: int, concurrency: int
    ) -> int:
        """Blocks that requests take at a time, with the prompts that are kept.

        A request shares the full blocks of its prompt and owns all after them; one more is left
        free for each, as the scheduler does when it admits one.
        """
        shared = pinned_slots // self.block_size
        own = self.blocks(pinned_slots + own_tokens) - shared + 1
        return prompts * self.blocks(pinned_slots) + concurrency * own

    def lack(self, blocks: int) -> str | None:
        """Why so many blocks do not fit; None where they do."""
        if blocks <= self.num_blocks:
            return None
        wanted = blocks * self.block_size
        return (
            f"needs {wanted:,} slots ({self._gib(blocks)}) of the KV cache, which has "
            f"{self.num_blocks * self.block_size:,} ({self._gib(self.num_blocks)})"
        )

    def _gib(self, blocks: int) -> str:
        return f"{blocks * self.block_size * self.slot_bytes / 2**30:.2f} GiB"
