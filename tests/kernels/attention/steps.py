"""Packed steps with known answers, for every implementation of paged attention."""

import random
from dataclasses import dataclass, field
from typing import Any

import torch
from gistserve.kernels.attention import AttentionMetadata, reference_paged_attention
from torch import Tensor

# Norm of the error over the norm of the result.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@dataclass
class Step:
    """What one call of the operator gets, on any device."""

    query: Tensor
    key: Tensor
    value: Tensor
    key_cache: Tensor
    value_cache: Tensor
    metadata: AttentionMetadata
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.query, self.key, self.value, self.key_cache, self.value_cache

    def to(self, device: str) -> "Step":
        """A copy on another device; bounds and options stay."""
        metadata = self.metadata
        arrays = (
            metadata.query_start_loc,
            metadata.seq_lens,
            metadata.block_table,
            metadata.slot_mapping,
        )
        options = dict(self.options)
        if options.get("sinks") is not None:
            options["sinks"] = options["sinks"].to(device)
        return Step(
            *(tensor.to(device, copy=True) for tensor in self.tensors),
            AttentionMetadata(
                *(array.to(device, copy=True) for array in arrays),
                metadata.max_query_len,
                metadata.max_seq_len,
            ),
            options,
        )

    def operator_arguments(self) -> tuple[Any, ...]:
        """Arguments of ``torch.ops.gistserve.paged_attention``."""
        metadata = self.metadata
        return (
            *self.tensors,
            metadata.query_start_loc,
            metadata.seq_lens,
            metadata.block_table,
            metadata.slot_mapping,
            metadata.max_query_len,
            metadata.max_seq_len,
            *map(self.options.get, ("scale", "sliding_window", "softcap", "sinks")),
        )


def make_step(
    lens: list[tuple[int, int]],
    heads: tuple[int, int, int, int],
    *,
    block_size: int = 4,
    dtype: torch.dtype = torch.float32,
    contiguous: bool = False,
    seed: int = 0,
    **options: Any,
) -> Step:
    """Random tensors over scattered pages, and NaN in every slot of no sequence.

    Args:
        lens: (new tokens, slots after the step) of each sequence. Zero new tokens are allowed, and
            so is one new token of no slots, which is written nowhere.
        heads: query heads, KV heads, size of a key, size of a value.
        options: those of the operator; ``sinks=True`` draws some.
    """
    query_heads, kv_heads, dim, value_dim = heads
    rng, gen = random.Random(seed), torch.Generator().manual_seed(seed)
    num_pages = [-(-seq_len // block_size) for _, seq_len in lens]
    pages = list(range(1, sum(num_pages) + 3))
    if not contiguous:
        rng.shuffle(pages)
    tables = [[pages.pop(0) for _ in range(count)] for count in num_pages]
    slots = [
        [table[slot // block_size] * block_size + slot % block_size for slot in range(seq_len)]
        for table, (_, seq_len) in zip(tables, lens, strict=True)
    ]
    metadata = _metadata(lens, tables, slots)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=gen, dtype=torch.float64).to(dtype)

    num_blocks = sum(num_pages) + 3
    key_cache = rand(num_blocks, block_size, kv_heads, dim)
    value_cache = rand(num_blocks, block_size, kv_heads, value_dim)
    unused = torch.ones(num_blocks * block_size, dtype=torch.bool)
    unused[[slot for sequence in slots for slot in sequence]] = False
    for cache in (key_cache, value_cache):
        cache.view(-1, *cache.shape[2:])[unused] = torch.nan
    tokens = len(metadata.slot_mapping)
    query, key = rand(tokens, query_heads, dim), rand(tokens, kv_heads, dim)
    options = {"scale": 0.3, **options}
    if options.get("sinks"):
        options["sinks"] = torch.linspace(-1, 2, query_heads)
    value = rand(tokens, kv_heads, value_dim)
    return Step(query, key, value, key_cache, value_cache, metadata, options)


def _metadata(
    lens: list[tuple[int, int]], tables: list[list[int]], slots: list[list[int]]
) -> AttentionMetadata:
    counts = [count for count, _ in lens]
    written = [
        sequence[len(sequence) - count :] if sequence else [-1] * count
        for sequence, count in zip(slots, counts, strict=True)
    ]
    width = max(map(len, tables), default=0)
    padded = [table + [0] * (width - len(table)) for table in tables]
    return AttentionMetadata(
        query_start_loc=torch.tensor([0, *counts]).cumsum(0).int(),
        seq_lens=torch.tensor([seq_len for _, seq_len in lens], dtype=torch.int32),
        block_table=torch.tensor(padded, dtype=torch.int32).view(len(tables), width),
        slot_mapping=torch.tensor([slot for part in written for slot in part], dtype=torch.int64),
        max_query_len=max(counts, default=0),
        max_seq_len=max((seq_len for _, seq_len in lens), default=0),
    )


def expect(step: Step) -> tuple[Tensor, Tensor, Tensor]:
    """The definition in float64: the output, and the pages afterwards."""
    query, key, value, key_cache, value_cache = (t.cpu().double() for t in step.tensors)
    metadata, rows = _without_empty(step.metadata)
    options = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in step.options.items()}
    out = torch.zeros(*query.shape[:2], value.shape[2], dtype=torch.float64)
    out[rows] = reference_paged_attention(
        query[rows], key[rows], value[rows], key_cache, value_cache, metadata, **options
    )
    return out, key_cache, value_cache


def _without_empty(metadata: AttentionMetadata) -> tuple[AttentionMetadata, Tensor]:
    """The sequences that have slots, and their rows."""
    starts, seq_lens = metadata.query_start_loc.cpu().long(), metadata.seq_lens.cpu()
    counts, kept = starts.diff(), seq_lens > 0
    rows = torch.repeat_interleave(kept, counts)
    return AttentionMetadata(
        torch.cat([starts[:1], counts[kept].cumsum(0)]),
        seq_lens[kept],
        metadata.block_table.cpu()[kept],
        metadata.slot_mapping.cpu()[rows],
        metadata.max_query_len,
        metadata.max_seq_len,
    ), rows


def check(step: Step, attend: Any) -> None:
    """Compare ``attend(step)`` and the pages it leaves with the definition."""
    out, *caches = expect(step)
    actual = attend(step)
    assert actual.shape == out.shape and actual.dtype == step.query.dtype
    assert relative_error(actual, out) < TOLERANCE[step.query.dtype]
    for cache, wanted in zip((step.key_cache, step.value_cache), caches, strict=True):
        torch.testing.assert_close(cache.cpu().double(), wanted, rtol=0, atol=0, equal_nan=True)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual.cpu().double() - expected).norm() / expected.norm()).item()
