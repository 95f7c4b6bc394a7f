"""Random inputs of attention, in pages and dense, and the float64 answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.attention import AttentionMetadata
from .device import BenchDevice
from .model_shapes import ModelShape

BLOCK_SIZE = 16
_REFERENCE_BYTES = 4 * 2**30


@dataclass(frozen=True)
class AttentionCase:
    """A batch of equal sequences, of each of which the last ``new`` tokens are computed."""

    shape: ModelShape
    batch: int
    length: int
    new: int

    @property
    def kv_bytes(self) -> float:
        """Bytes of all sequences' keys and values at two bytes an element."""
        return 2.0 * 2 * self.batch * self.length * self.shape.num_kv_heads * self.shape.head_dim

    @property
    def floor_bytes(self) -> float:
        """Keys and values read once, queries read and outputs written once."""
        rows = self.batch * self.new * self.shape.num_heads
        return self.kv_bytes + 2.0 * 2 * rows * self.shape.head_dim

    @property
    def floor_flops(self) -> float:
        """Of the two products over the visible pairs."""
        visible = self.new * (self.length - self.new) + self.new * (self.new + 1) // 2
        return 4.0 * self.batch * self.shape.num_heads * self.shape.head_dim * visible

    @property
    def has_reference(self) -> bool:
        """Whether float64 keys, values and scores are small enough to be laid out."""
        scores = 8.0 * self.batch * self.shape.num_heads * self.new * self.length
        return 4 * self.kv_bytes + 3 * scores <= _REFERENCE_BYTES


@dataclass(frozen=True)
class PagedInputs:
    """``copies`` batches whose pages lie scattered over one pool."""

    query: Tensor
    key: Tensor
    value: Tensor
    key_cache: Tensor
    value_cache: Tensor
    tables: Tensor
    """int32 ``[copies, batch, pages]``."""
    metadata: list[AttentionMetadata]

    @classmethod
    def random(cls, case: AttentionCase, device: BenchDevice, copies: int) -> PagedInputs:
        shape, pages = case.shape, -(-case.length // BLOCK_SIZE)
        tokens, blocks = case.batch * case.new, copies * case.batch * pages
        query = device.randn(tokens, shape.num_heads, shape.head_dim)
        key, value = (device.randn(tokens, shape.num_kv_heads, shape.head_dim) for _ in range(2))
        key_cache, value_cache = (
            device.randn(blocks, BLOCK_SIZE, shape.num_kv_heads, shape.head_dim) for _ in range(2)
        )
        tables = torch.randperm(blocks, device=device.device, dtype=torch.int32)
        tables = tables.view(copies, case.batch, pages)
        metadata = [_metadata(case, table) for table in tables]
        return cls(query, key, value, key_cache, value_cache, tables, metadata)

    def reference(self, case: AttentionCase) -> Tensor:
        """The first copy's output ``[T, Hq, D]`` in float64, once its tokens are in the pages."""
        keys, values = (
            cache[self.tables[0].long()].flatten(1, 2)[:, : case.length].transpose(1, 2).double()
            for cache in (self.key_cache, self.value_cache)
        )
        query = self.query.view(case.batch, case.new, *self.query.shape[1:]).transpose(1, 2)
        return attend(query.double(), keys, values).transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True)
class DenseInputs:
    """``copies`` batches of dense keys and values ``[batch, Hkv, length, D]``."""

    query: Tensor
    """``[batch, Hq, new, D]``."""
    keys: list[Tensor]
    values: list[Tensor]

    @classmethod
    def random(cls, case: AttentionCase, device: BenchDevice, copies: int) -> DenseInputs:
        shape = case.shape
        query = device.randn(case.batch, shape.num_heads, case.new, shape.head_dim)
        size = (case.batch, shape.num_kv_heads, case.length, shape.head_dim)
        keys, values = ([device.randn(*size) for _ in range(copies)] for _ in range(2))
        return cls(query, keys, values)

    def reference(self) -> Tensor:
        """The first copy's output ``[batch, Hq, new, D]`` in float64."""
        return attend(self.query.double(), self.keys[0].double(), self.values[0].double())


def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention of the last T of L tokens, ``[B, Hq, T, D]``, as its definition."""
    batch, heads, new, size = query.shape
    grouped = query.view(batch, keys.shape[1], -1, new, size)
    scores = grouped @ keys.unsqueeze(2).transpose(-1, -2) * size**-0.5
    index = torch.arange(keys.shape[2], device=query.device)
    scores.masked_fill_(index > index[-new:, None], float("-inf"))
    return (scores.softmax(-1) @ values.unsqueeze(2)).view(batch, heads, new, -1)


def _metadata(case: AttentionCase, table: Tensor) -> AttentionMetadata:
    device = table.device
    slots = torch.arange(case.length - case.new, case.length, device=device)
    pages = table[:, slots // BLOCK_SIZE].long()
    return AttentionMetadata(
        torch.arange(case.batch + 1, dtype=torch.int32, device=device) * case.new,
        torch.full((case.batch,), case.length, dtype=torch.int32, device=device),
        table,
        (pages * BLOCK_SIZE + slots % BLOCK_SIZE).flatten(),
        max_query_len=case.new,
        max_seq_len=case.length,
    )
