"""Limits and sizes of one engine."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...kernels.sparse import DECODE_BATCH


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Engine settings.

    Raises:
        ValueError: naming the setting that is out of range.
    """

    max_model_len: int | None = None
    """Most positions of a sequence, prompt and output; ``None`` takes the model's own limit."""
    max_num_seqs: int = 64
    """Most sequences in a step."""
    max_num_batched_tokens: int = 2048
    """Most tokens in a step, prefill chunks and decodes together."""
    kv_cache_memory: int | None = None
    """Bytes for keys and values; ``None`` lets the model runner choose."""
    gpu_memory_utilization: float = 0.9
    """Share of a CUDA device's memory that may be in use, where the model runner chooses."""
    block_size: int = 16
    """Slots in a block."""
    dtype: torch.dtype | None = None
    """Of the cache; ``None`` takes the model's."""
    device: torch.device | str | None = None
    """``None`` takes the model's."""
    num_blocks: int | None = None
    """Blocks in the pool, in place of ``kv_cache_memory``."""
    enable_prefix_caching: bool = True
    enforce_eager: bool = False
    """Capture no decode steps as CUDA graphs."""
    fuse_projections: bool | None = None
    """Compute projections of one input (queries, keys and values; gate and up) as one product;
    ``None`` does on CUDA."""
    compile: bool = False
    """Compile the model's layers with torch.compile: faster steps, a slower start."""
    decode_batch: int = DECODE_BATCH
    """Sequences that decode at the same time as a rule; sparse layers are made ready for them."""
    compress_chunk_size: int = 512
    """Tokens that a compression computes between two decoding steps."""
    seed: int = 0
    """For requests without a seed of their own."""

    def __post_init__(self) -> None:
        for name in (
            "max_model_len",
            "max_num_seqs",
            "max_num_batched_tokens",
            "kv_cache_memory",
            "block_size",
            "num_blocks",
            "decode_batch",
            "compress_chunk_size",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        share = self.gpu_memory_utilization
        if not 0.0 < share <= 1.0:
            raise ValueError(f"gpu_memory_utilization must be above 0 and at most 1, got {share}")
