"""The memory behind the block pool: every layer's pages, and how many of them there can be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...compress.cache import GistCache
from ...kernels.attention import DenseRows
from .attention_backend import LayerCache
from .probe import LayerSpec
from .transfer import upload

# Of the host's memory free after loading, which the page cache and other processes share.
_CPU_SHARE = 0.25
# Dense copies of running sequences, by which the CPU decodes, may take so much of the pool's size:
# enough for a pool that is full of sequences of one length.
_DENSE_SHARE = 1.0


class KVPool:
    """Keys and values of ``num_blocks`` blocks of ``block_size`` slots, in every layer.

    Zeroed at first. With ``keep_dense`` running sequences are also kept dense, by which the CPU
    decodes.
    """

    def __init__(
        self,
        specs: Sequence[LayerSpec],
        num_blocks: int,
        block_size: int,
        device: torch.device,
        *,
        keep_dense: bool = False,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.device = device
        self.layers = [
            LayerCache(
                _zeros((num_blocks, block_size, s.kv_heads, s.key_dim), s.dtype, device),
                _zeros((num_blocks, block_size, s.kv_heads, s.value_dim), s.dtype, device),
            )
            for s in specs
        ]
        self.dense: DenseRows | None = None
        if keep_dense:
            max_bytes = int(num_blocks * block_bytes(specs, block_size) * _DENSE_SHARE)
            self.dense = DenseRows([(layer.key, layer.value) for layer in self.layers], max_bytes)

    @torch.no_grad()
    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks, ``(source, destination)``, in every layer.

        All sources are read before any destination is written.
        """
        if not pairs:
            return
        (places,) = upload([np.array(pairs, dtype=np.int64)], self.device)
        sources, targets = places.unbind(1)
        self.touch(target for _, target in pairs)
        for layer in self.layers:
            for pages in (layer.key, layer.value):
                pages.index_copy_(0, targets, pages.index_select(0, sources))

    @torch.no_grad()
    def write(self, cache: GistCache, block_ids: Sequence[int]) -> None:
        """Put a cache's slots into blocks, in order.

        Raises:
            ValueError: the cache is not of this model's shape, or the blocks are too few.
        """
        self._check(cache, block_ids)
        slots = self._flat_slots(block_ids, range(len(cache.keys[0])))
        self.touch(block_ids)
        for layer, key, value in zip(self.layers, cache.keys, cache.values, strict=True):
            for pages, states in ((layer.key, key), (layer.value, value)):
                pages.view(-1, *pages.shape[2:])[slots] = states.to(pages.device, pages.dtype)

    @torch.no_grad()
    def read(self, block_ids: Sequence[int], slots: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Copies of a sequence's slots: for each layer key ``[n, Hkv, D]``, value ``[n, Hkv, Dv]``.

        Args:
            block_ids: the sequence's blocks in order.
            slots: slots of the sequence, counted from its first.
        """
        index = self._flat_slots(block_ids, slots)
        return [
            (
                layer.key.view(-1, *layer.key.shape[2:])[index],
                layer.value.view(-1, *layer.value.shape[2:])[index],
            )
            for layer in self.layers
        ]

    def touch(self, block_ids: Iterable[int]) -> None:
        """Say that blocks were written other than by a step's tokens."""
        if self.dense is not None:
            self.dense.touch(block_ids)

    def _flat_slots(self, block_ids: Sequence[int], slots: Sequence[int]) -> Tensor:
        size = self.block_size
        flat = [block_ids[slot // size] * size + slot % size for slot in slots]
        return torch.tensor(flat, dtype=torch.int64, device=self.device)

    def _check(self, cache: GistCache, block_ids: Sequence[int]) -> None:
        if len(cache.keys) != len(self.layers):
            raise ValueError(f"cache has {len(cache.keys)} layers, the model {len(self.layers)}")
        slots = len(cache.keys[0])
        if slots > len(block_ids) * self.block_size:
            raise ValueError(
                f"cache of {slots} slots does not fit {len(block_ids)} blocks of {self.block_size}"
            )
        for index, (layer, key, value) in enumerate(
            zip(self.layers, cache.keys, cache.values, strict=True)
        ):
            for name, states, pages in (("key", key, layer.key), ("value", value, layer.value)):
                if states.shape != (slots, *pages.shape[2:]):
                    raise ValueError(
                        f"cache's {name} in layer {index} has shape {list(states.shape)}, the "
                        f"model's is {[slots, *pages.shape[2:]]}"
                    )


def block_bytes(specs: Sequence[LayerSpec], block_size: int) -> int:
    """Bytes that one block takes over all layers."""
    return block_size * sum(spec.bytes_per_slot for spec in specs)


def host_memory_budget() -> int:
    """Bytes that a pool in main memory may take, from what is free now."""
    return int(_available_memory() * _CPU_SHARE)


def _available_memory() -> int:
    """Bytes of main memory available to this process; its container's limit counts too."""
    available = 4 * 2**30
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        available = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (most := limit.read_text().strip()) != "max":
        available = min(available, max(0, int(most) - int(used.read_text())))
    return available


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # The system hands out zeroed pages when they are first touched: a large pool costs nothing
    # until it is used, where torch.zeros would write all of it now.
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(shape)
