"""What an engine asks of the memory for keys and values, and what a device has to give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .device_memory import DeviceMemory
from .kv_pool import host_memory_budget


@dataclass(frozen=True, slots=True)
class KVDemand:
    """Sizes of one engine's pool; bytes are over all layers."""

    block_bytes: int
    block_size: int
    """Slots in a block."""
    max_model_len: int
    """Most slots of a sequence."""
    max_num_seqs: int
    num_scratch_blocks: int
    """Blocks beside those of sequences, for the rows that pad captured steps."""
    memory: DeviceMemory | None
    """As measured; None in main memory, or where nobody asked."""

    @property
    def sequence_blocks(self) -> int:
        """Blocks of one sequence of ``max_model_len``."""
        return -(-self.max_model_len // self.block_size)

    @property
    def most_blocks(self) -> int:
        """Blocks of as many such sequences as may run: more would never be used at once."""
        return self.max_num_seqs * self.sequence_blocks

    def num_blocks(self, budget: int) -> int:
        """Blocks for sequences in ``budget`` bytes; negative where not even the others fit."""
        return budget // self.block_bytes - self.num_scratch_blocks


def kv_budget(demands: Sequence[KVDemand], utilization: float) -> int:
    """Bytes that the pools of all engines of this process may take together.

    On a device: what ``utilization`` of its memory leaves beside all that is in use after the last
    engine was measured, a full step of every engine (they run at the same time) and their captured
    steps. In main memory: a part of what is free now.

    Raises:
        ValueError: nothing is left.
    """
    measured = [demand.memory for demand in demands if demand.memory is not None]
    if not measured:
        return host_memory_budget()
    together = DeviceMemory(
        total=measured[-1].total,
        in_use=measured[-1].in_use,
        step=sum(memory.step for memory in measured),
        graphs=sum(memory.graphs for memory in measured),
    )
    return together.budget(utilization)
