"""Runs a transformers model on packed batches over a pool of key/value blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...compress.cache import GistCache
from ...kernels.attention import AttentionMetadata, DenseStep
from .attention_backend import ATTENTION_NAME, CONTEXT_KEYWORD, PagedContext
from .config import EngineConfig
from .kv_pool import KVPool, block_bytes, memory_budget
from .probe import LayerSpec, check_class, probe_layers
from .scheduler_output import SchedulerOutput


class ModelRunner:
    """A model bound to our attention, and the pool that its keys and values live in.

    Until :meth:`close` the model runs through this object alone (its attention implementation is
    ours, and it is in evaluation mode); weights and module structure are never touched. Calls come
    from one thread at a time.

    Args:
        model: any decoder-only causal LM of transformers, on the device where it shall run.
        config: sizes; ``num_blocks`` or ``kv_cache_memory`` fix the pool, else a share of the
            memory that is free is taken, up to what ``max_num_seqs`` full sequences need.

    Raises:
        UnsupportedModelError: the model cannot be served; the message names class and remedy.
        ValueError: the memory given does not hold a single block.
    """

    def __init__(self, model: PreTrainedModel, config: EngineConfig) -> None:
        check_class(model)
        self.model = model
        self.device = model.device
        self._restore = (model.config._attn_implementation, model.training)
        model.set_attn_implementation(ATTENTION_NAME)
        model.eval()
        try:
            self.layer_specs: list[LayerSpec] = probe_layers(model)
            _check_dtype(config, self.layer_specs)
            self.max_model_len = _max_model_len(model, config)
            self.pool = KVPool(
                self.layer_specs, self._num_blocks(config), config.block_size, self.device
            )
        except BaseException:
            self.close()
            raise

    @property
    def num_blocks(self) -> int:
        return self.pool.num_blocks

    @property
    def block_size(self) -> int:
        return self.pool.block_size

    @property
    def bytes_per_slot(self) -> int:
        """Bytes that one slot takes over all layers."""
        return sum(spec.bytes_per_slot for spec in self.layer_specs)

    @property
    def has_sliding_window(self) -> bool:
        """Whether a layer's window counts slots, so that slots must equal positions."""
        return any(spec.sliding_window is not None for spec in self.layer_specs)

    @torch.inference_mode()
    def execute(self, output: SchedulerOutput) -> Tensor:
        """Compute one step.

        Returns:
            Logits ``[R, V]`` in the model's dtype, one row for each of ``output.logits_indices``.
        """
        self.pool.copy_blocks(output.block_copies)
        dense = self._begin_dense(output)
        metadata = AttentionMetadata.from_numpy(
            output.query_start_loc,
            output.seq_lens,
            output.block_table,
            output.slot_mapping,
            max_query_len=output.max_query_len,
            max_seq_len=output.max_seq_len,
            device=self.device,
            dense=dense,
        )
        try:
            return self._forward(output, PagedContext(metadata, self.pool.layers))
        except BaseException:
            if self.pool.dense is not None:
                self.pool.dense.reset()
            raise

    def _begin_dense(self, output: SchedulerOutput) -> DenseStep | None:
        if self.pool.dense is None:
            return None
        return self.pool.dense.begin_step(
            np.array([share.sequence.row for share in output.sequences], dtype=np.int64),
            output.query_start_loc,
            output.seq_lens,
            output.block_table,
            output.slot_mapping,
        )

    def _forward(self, output: SchedulerOutput, context: PagedContext) -> Tensor:
        tokens = torch.from_numpy(output.token_ids).to(self.device)
        positions = torch.from_numpy(output.positions).to(self.device)
        every_row = len(output.logits_indices) == output.num_tokens
        # One row of all tokens; or, which is faster, a column where each sequence has one token.
        dim = 1 if every_row and output.max_query_len == 1 else 0
        result = self.model(
            input_ids=tokens.unsqueeze(dim),
            position_ids=positions.unsqueeze(dim),
            use_cache=False,
            # With 0 the head runs over all rows, without an index.
            logits_to_keep=0
            if every_row
            else torch.from_numpy(output.logits_indices).to(self.device),
            **{CONTEXT_KEYWORD: context},
        )
        logits: Tensor = result.logits.squeeze(dim)
        return logits

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy blocks ``(source, destination)`` in every layer."""
        self.pool.copy_blocks(pairs)

    def write_cache(self, cache: GistCache, block_ids: Sequence[int]) -> None:
        """Put a cache's slots into blocks; ValueError where it does not fit model or blocks."""
        self.pool.write(cache, block_ids)

    def read_slots(
        self, block_ids: Sequence[int], slots: Sequence[int]
    ) -> list[tuple[Tensor, Tensor]]:
        """For each layer key ``[n, Hkv, D]`` and value ``[n, Hkv, Dv]`` of a sequence's slots."""
        return self.pool.read(block_ids, slots)

    def kv_session(self, block_ids: Sequence[int]) -> PagedSession:
        """An empty session over blocks that the caller has set aside for it."""
        return PagedSession(self, block_ids)

    def close(self) -> None:
        """Give the model back as it was; the runner must not be used after."""
        attention, training = self._restore
        self.model.set_attn_implementation(attention)
        self.model.train(training)

    def _num_blocks(self, config: EngineConfig) -> int:
        if config.num_blocks is not None:
            return config.num_blocks
        per_block = block_bytes(self.layer_specs, config.block_size)
        if config.kv_cache_memory is not None:
            budget = config.kv_cache_memory
        else:
            if self.device.type != "cpu":
                # So that the memory a full step needs is taken before what is free is measured.
                probe_layers(self.model, config.max_num_batched_tokens)
            budget = memory_budget(self.device)
        if budget < per_block:
            raise ValueError(
                f"{budget} bytes of memory for keys and values do not hold one block of "
                f"{config.block_size} slots ({per_block} bytes); raise kv_cache_memory"
            )
        blocks_per_seq = -(-self.max_model_len // config.block_size)
        if config.kv_cache_memory is not None:
            return budget // per_block
        return min(budget // per_block, config.max_num_seqs * blocks_per_seq)


class PagedSession:
    """The compressor's ``KVSession`` over blocks of the pool: one sequence, filled in chunks."""

    def __init__(self, runner: ModelRunner, block_ids: Sequence[int]) -> None:
        self._runner = runner
        self._block_ids = list(block_ids)
        self.num_slots = 0

    @torch.inference_mode()
    def append(self, inputs_embeds: Tensor, position_ids: Tensor) -> None:
        """Run the model over ``inputs_embeds [1, T, H]`` at ``position_ids [1, T]``.

        Raises:
            ValueError: more slots than the session's blocks hold.
        """
        runner, count = self._runner, inputs_embeds.shape[1]
        metadata = AttentionMetadata.build(
            [count],
            [self.num_slots + count],
            [self._block_ids],
            runner.block_size,
            runner.device,
        )
        runner.pool.touch(self._block_ids)
        runner.model.base_model(
            inputs_embeds=inputs_embeds.to(runner.device),
            position_ids=position_ids.to(runner.device),
            use_cache=False,
            **{CONTEXT_KEYWORD: PagedContext(metadata, runner.pool.layers)},
        )
        self.num_slots += count

    def read(self, slots: list[int]) -> list[tuple[Tensor, Tensor]]:
        """For each layer key ``[n, Hkv, D]`` and value ``[n, Hkv, Dv]`` of these slots."""
        if slots and not 0 <= min(slots) <= max(slots) < self.num_slots:
            raise ValueError(f"slots must lie in 0..{self.num_slots - 1}, got {slots}")
        return self._runner.read_slots(self._block_ids, slots)


def _max_model_len(model: PreTrainedModel, config: EngineConfig) -> int:
    """Most positions of a sequence: the model's limit, or a smaller one that is asked for."""
    text_config = model.config.get_text_config(decoder=True)
    limit = _position_limit(text_config)
    if config.max_model_len is None:
        if limit is None:
            raise ValueError(
                f"{type(model).__name__} does not say how many positions it has; set max_model_len"
            )
        return limit
    if limit is not None and config.max_model_len > limit:
        raise ValueError(
            f"max_model_len is {config.max_model_len}, but {type(model).__name__} can be served "
            f"with at most {limit} positions"
        )
    return config.max_model_len


def _position_limit(text_config: Any) -> int | None:
    """The model's own number of positions, less where its RoPE changes on the way there.

    "dynamic" and "longrope" take their frequencies from the largest position of a forward. Beyond
    the original length one long sequence would change the others of its batch, and every sequence
    the meaning of the keys that it has cached.
    """
    limits = [getattr(text_config, "max_position_embeddings", None)]
    rope = getattr(text_config, "rope_parameters", None) or {}
    for entry in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if entry.get("rope_type") in ("dynamic", "longrope"):
            limits.append(
                entry.get("original_max_position_embeddings")
                or getattr(text_config, "original_max_position_embeddings", None)
            )
    return min((limit for limit in limits if limit is not None), default=None)


def _check_dtype(config: EngineConfig, specs: Sequence[LayerSpec]) -> None:
    for spec in specs:
        if config.dtype not in (None, spec.dtype):
            raise ValueError(
                f"the cache's dtype is the model's, {spec.dtype}, not {config.dtype}; load the "
                f"model in {config.dtype}"
            )
