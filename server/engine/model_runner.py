"""Runs a transformers model on packed batches over a pool of key/value blocks."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.logging import tqdm

from ...compress.cache import GistCache
from ...kernels.attention import AttentionMetadata, DenseStep
from .bound_model import BoundModel
from .config import EngineConfig
from .decode_capturer import DecodeCapturer
from .decode_graphs import DecodeGraphs, batch_sizes
from .device_memory import DeviceMemory
from .errors import UnsupportedModelError
from .graph_capture import capture_for
from .kv_demand import KVDemand, kv_budget
from .kv_pool import KVPool, block_bytes
from .memory_profile import full_step, measure_memory
from .paged_session import PagedSession
from .sampler import Sampler
from .scheduler_output import SchedulerOutput
from .transfer import upload

# Three for each kind of layer; torch's own limit, 8, is for what is compiled by mistake.
_MOST_COMPILATIONS = 64

logger = logging.getLogger(__name__)


class ModelRunner:
    """A model bound to our attention, and the pool that its keys and values live in.

    Until :meth:`close` the model runs through this object alone (its attention implementation is
    ours, and it is in evaluation mode). Names, modules and values of its weights stay as they are;
    where projections are fused, weights move to other memory. Calls come from one thread at a time.

    On CUDA a step of one token a sequence replays what was captured for its batch size. Every other
    step, and each step of a model that cannot be captured, runs eagerly.

    Args:
        model: any decoder-only causal LM of transformers, on the device where it shall run.
        config: sizes; ``num_blocks`` or ``kv_cache_memory`` fix the pool, else it takes a share of
            the memory that is free, up to what ``max_num_seqs`` full sequences need.
        allocate: whether to make the pool now; else :meth:`allocate` must be called before the
            first step, which lets several runners share the memory out.

    Raises:
        UnsupportedModelError: the model cannot be served; the message names class and remedy.
        ValueError: the memory given, or left by the weights, does not hold a single block.
    """

    def __init__(
        self, model: PreTrainedModel, config: EngineConfig, *, allocate: bool = True
    ) -> None:
        self._bound = BoundModel(model, config)
        self._config = config
        self.max_model_len = self._bound.max_model_len
        """Most positions of a sequence."""
        self._graphs: DecodeGraphs | None = None
        try:
            self._use_pool(1)  # enough to try steps on
            if config.compile:
                self._compile()
            self._capturer = self._find_capturer()
            if allocate:
                self.allocate(self._num_blocks())
        except BaseException:
            self.close()
            raise

    def demand(self, *, measured: bool) -> KVDemand:
        """What this runner asks of the memory for keys and values, before it allocates.

        With ``measured`` also what a CUDA device has, and what steps take of it.
        """
        config, bound = self._config, self._bound
        on_device = measured and bound.device.type == "cuda"
        return KVDemand(
            block_bytes=block_bytes(bound.layer_specs, config.block_size),
            block_size=config.block_size,
            max_model_len=self.max_model_len,
            max_num_seqs=config.max_num_seqs,
            num_scratch_blocks=int(self._capturer is not None),
            memory=self._measure() if on_device else None,
        )

    def allocate(self, num_blocks: int, max_model_len: int | None = None) -> None:
        """Make the pool, and capture decode steps on it; once.

        Args:
            num_blocks: blocks that sequences can use.
            max_model_len: most positions of a sequence, where it shall be less than it was.
        """
        self.num_blocks = num_blocks
        """Blocks that sequences can use."""
        if max_model_len is not None:
            self.max_model_len = min(max_model_len, self.max_model_len)
        if self._capturer is None:
            self._use_pool(num_blocks, keep_dense=self._bound.device.type == "cpu")
            return
        self._use_pool(num_blocks + 1)
        bar = functools.partial(tqdm, desc="Capturing decode steps", unit="size")
        sizes = batch_sizes(self._config.max_num_seqs)
        try:
            self._graphs = self._capturer.capture(sizes, scratch_block=num_blocks, progress=bar)
        except RuntimeError as error:
            self._explain_eager(str(error))

    @property
    def block_size(self) -> int:
        return self._config.block_size

    @property
    def bytes_per_slot(self) -> int:
        """Bytes that one slot takes over all layers."""
        return sum(spec.bytes_per_slot for spec in self._bound.layer_specs)

    @property
    def has_sliding_window(self) -> bool:
        """Whether a layer's window counts slots, so that slots must equal positions."""
        return any(spec.sliding_window is not None for spec in self._bound.layer_specs)

    @property
    def captured_sizes(self) -> list[int]:
        """Batch sizes whose decode steps are replayed, ascending; none where all run eagerly."""
        return self._graphs.sizes if self._graphs else []

    @torch.inference_mode()
    def execute(self, output: SchedulerOutput) -> Tensor:
        """Compute one step.

        Returns:
            Logits ``[R, V]`` in the model's dtype, one row for each of ``output.logits_indices``;
            valid until the next step.
        """
        self.pool.copy_blocks(output.block_copies)
        if self._graphs is not None and self._graphs.takes(output):
            return self._graphs.run(output)
        dense = self._begin_dense(output)
        try:
            return self._run(output, dense)
        except BaseException:
            if self.pool.dense is not None:
                self.pool.dense.reset()
            raise

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
        return PagedSession(self._bound.model, self.pool, block_ids)

    def close(self) -> None:
        """Give the model back as it was; the runner must not be used after."""
        self._graphs = None
        self._bound.close()

    # --- a step ---

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

    def _run(self, output: SchedulerOutput, dense: DenseStep | None) -> Tensor:
        token_ids, positions, slot_mapping, starts, seq_lens, block_table, rows = upload(
            (
                output.token_ids,
                output.positions,
                output.slot_mapping,
                output.query_start_loc,
                output.seq_lens,
                output.block_table,
                output.logits_indices,
            ),
            self._bound.device,
        )
        metadata = AttentionMetadata(
            starts,
            seq_lens,
            block_table,
            slot_mapping,
            output.max_query_len,
            output.max_seq_len,
            dense,
        )
        every_row = len(output.logits_indices) == output.num_tokens
        return self._bound.logits(
            token_ids,
            positions,
            metadata,
            rows=None if every_row else rows,
            upright=every_row and output.max_query_len == 1,
        )

    # --- the start ---

    def _use_pool(self, num_blocks: int, *, keep_dense: bool = False) -> None:
        bound = self._bound
        self.pool = KVPool(
            bound.layer_specs, num_blocks, self.block_size, bound.device, keep_dense=keep_dense
        )
        bound.attach(self.pool.layers)

    def _compile(self) -> None:
        """Compile for each shape of batch: tokens in a row, one of each sequence, a single one."""
        try:
            with torch._dynamo.config.patch(recompile_limit=_MOST_COMPILATIONS):
                for num_seqs, num_tokens in ((2, 6), (3, 3), (1, 1)):
                    sizes = replace(
                        self._config, max_num_seqs=num_seqs, max_num_batched_tokens=num_tokens
                    )
                    self.execute(full_step(sizes, self.max_model_len))
        except RuntimeError as error:
            reason = " ".join(str(error).splitlines()[:2])
            raise UnsupportedModelError(
                f"{type(self._bound.model).__name__} cannot be compiled ({reason}); serve it "
                "without compiling"
            ) from error

    def _find_capturer(self) -> DecodeCapturer | None:
        """What captures decode steps, or None where they shall not or cannot be captured."""
        bound = self._bound
        start_capture = None if self._config.enforce_eager else capture_for(bound.device)
        if start_capture is None:
            return None
        max_blocks = -(-self.max_model_len // self.block_size)
        decode = functools.partial(bound.logits, upright=True)
        capturer = DecodeCapturer(decode, start_capture, bound.device, self.block_size, max_blocks)
        obstacle = capturer.obstacle(functools.partial(decode, plain=True))
        if obstacle is None:
            return capturer
        self._explain_eager(obstacle)
        return None

    def _explain_eager(self, reason: str) -> None:
        logger.warning(
            "%s decodes without CUDA graphs, which is slower: %s",
            type(self._bound.model).__name__,
            reason.partition("\n")[0],
        )

    def _num_blocks(self) -> int:
        """As many as the configuration says, or as fit the memory that it leaves to choose."""
        config = self._config
        if config.num_blocks is not None:
            return config.num_blocks
        given = config.kv_cache_memory
        demand = self.demand(measured=given is None)
        budget = kv_budget([demand], config.gpu_memory_utilization) if given is None else given
        num_blocks = demand.num_blocks(budget)
        if num_blocks < 1:
            raise ValueError(
                f"{budget} bytes of memory for keys and values do not hold one block of "
                f"{config.block_size} slots ({demand.block_bytes} bytes); raise kv_cache_memory"
            )
        return min(num_blocks, demand.most_blocks) if given is None else num_blocks

    def _measure(self) -> DeviceMemory:
        """What steps need, tried out on the pool of one block."""
        output = full_step(self._config, self.max_model_len)
        sequences = [share.sequence for share in output.sequences]
        sampler = Sampler()
        capture, sizes = None, []
        if self._capturer is not None:
            sizes = batch_sizes(self._config.max_num_seqs)
            capture = functools.partial(self._capturer.capture, sizes[-2:], 0)
        return measure_memory(
            self._bound.device,
            lambda: sampler.sample(self.execute(output), sequences),
            capture,
            len(sizes),
        )
