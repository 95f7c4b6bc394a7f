"""The compressor's way into the pool."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...kernels.attention import AttentionMetadata
from .attention_backend import CONTEXT_KEYWORD, PagedContext
from .kv_pool import KVPool


class PagedSession:
    """The compressor's ``KVSession`` over blocks of the pool: one sequence, filled in chunks."""

    def __init__(self, model: PreTrainedModel, pool: KVPool, block_ids: Sequence[int]) -> None:
        self._model = model
        self._pool = pool
        self._block_ids = list(block_ids)
        self.num_slots = 0

    @torch.inference_mode()
    def append(self, inputs_embeds: Tensor, position_ids: Tensor) -> None:
        """Run the model over ``inputs_embeds [1, T, H]`` at ``position_ids [1, T]``.

        Raises:
            ValueError: more slots than the session's blocks hold.
        """
        pool, count = self._pool, inputs_embeds.shape[1]
        metadata = AttentionMetadata.build(
            [count],
            [self.num_slots + count],
            [self._block_ids],
            pool.block_size,
            pool.device,
        )
        pool.touch(self._block_ids)
        self._model.base_model(
            inputs_embeds=inputs_embeds.to(pool.device),
            position_ids=position_ids.to(pool.device),
            use_cache=False,
            **{CONTEXT_KEYWORD: PagedContext(metadata, pool.layers)},
        )
        self.num_slots += count

    def read(self, slots: list[int]) -> list[tuple[Tensor, Tensor]]:
        """For each layer key ``[n, Hkv, D]`` and value ``[n, Hkv, Dv]`` of these slots."""
        if slots and not 0 <= min(slots) <= max(slots) < self.num_slots:
            raise ValueError(f"slots must lie in 0..{self.num_slots - 1}, got {slots}")
        return self._pool.read(self._block_ids, slots)
