"""How much of a device's memory keys and values may take."""

from __future__ import annotations

from dataclasses import dataclass

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What a device has, and what else needs it; bytes, as measured."""

    total: int
    in_use: int
    """By anybody, this model's weights included."""
    step: int
    """What a full step takes at its peak."""
    graphs: int
    """What captured decode steps keep."""

    def budget(self, utilization: float) -> int:
        """Bytes left for keys and values where ``utilization`` of the total may be used.

        Raises:
            ValueError: nothing is left; the message accounts for the memory and says what helps.
        """
        left = int(self.total * utilization) - self.in_use - self.step - self.graphs
        if left <= 0:
            raise ValueError(
                f"no memory is left for keys and values: {utilization:.0%} of the device's "
                f"{_gib(self.total)} may be used, {_gib(self.in_use)} are in use by weights and "
                f"others, a full step takes {_gib(self.step)} and captured decode steps "
                f"{_gib(self.graphs)}; lower max_num_batched_tokens or max_num_seqs, load the "
                "models in a smaller dtype, serve fewer models, raise gpu_memory_utilization, or "
                "say by kv_cache_memory what may be taken"
            )
        return left


def graph_bytes(largest: int, next_largest: int, num_graphs: int) -> int:
    """Bytes of captured steps of all sizes, from what the two largest took one after the other.

    The largest allocates what the others share; each of these adds about the same.
    """
    return max(largest, 0) + max(next_largest, 0) * (num_graphs - 1)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.2f} GiB"
