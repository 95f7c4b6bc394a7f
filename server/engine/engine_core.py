"""One model's scheduler, runner and sampler, stepped by whoever owns it; no threads in here."""

from __future__ import annotations

import logging

import torch
from transformers import PreTrainedModel

from ...compress.adapter import GistAdapter
from ...compress.cache import GistCache
from ...compress.compressor import GistCompressor
from .batch import single_token_step
from .block_pool import BlockPool
from .compression import CompressionQueue
from .config import EngineConfig
from .engine_stats import EngineCounters, EngineStats
from .errors import CacheFullError
from .model_runner import ModelRunner
from .pinned import PinnedCache
from .pooler import Pooler
from .request import FinishReason, RequestOutput
from .sampler import SampledTokens, Sampler
from .scheduler import Scheduler
from .scheduler_output import SchedulerOutput
from .sequence import Sequence
from .step_outputs import ended_output, sampling_rows, step_outputs

logger = logging.getLogger(__name__)


class EngineCore:
    """Runs steps; every call comes from one thread (but ``stats``, from any).

    Arguments and errors as ``Engine``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: EngineConfig,
        adapter: GistAdapter | None,
        fingerprint: str,
        runner: ModelRunner | None = None,
    ) -> None:
        compressor = GistCompressor(model, adapter, fingerprint=fingerprint)
        self.runner = runner or ModelRunner(model, config)
        self.scheduler = Scheduler(
            BlockPool(self.runner.num_blocks, self.runner.block_size),
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_model_len=self.runner.max_model_len,
            enable_prefix_caching=config.enable_prefix_caching,
        )
        self.compressions = CompressionQueue(
            compressor, self.runner, self.scheduler, config.compress_chunk_size
        )
        self._pooler = Pooler(model)
        self._sampler = Sampler(config.seed)
        self._counters = EngineCounters()

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or self.compressions.has_work

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence; one that does not fit (any more) ends with the next outputs."""
        try:
            self.scheduler.add(sequence)
        except (CacheFullError, ValueError) as error:
            sequence.finish_reason, sequence.error = "error", str(error)
            self.scheduler.ended.append(sequence)

    def step(self) -> list[RequestOutput]:
        """Computes one chunk of a compression, if one waits, and one step of the sequences.

        A step that fails is computed again, one sequence at a time; those that fail again end
        with finish_reason "error".

        Raises:
            Exception: if the model fails on anything, or the state can no longer be trusted; the
                engine must stop.
        """
        self.compressions.advance()
        outputs: list[RequestOutput] = []
        if self.scheduler.has_work:
            output = self.scheduler.schedule()
            if output.sequences:
                outputs = self._compute(output)
        return outputs + self.take_ended()

    def take_ended(self) -> list[RequestOutput]:
        """The last outputs of sequences that ended outside a step's computation."""
        ended, self.scheduler.ended = self.scheduler.ended, []
        return [ended_output(sequence, self._counters) for sequence in ended]

    def end_all(self, reason: FinishReason, error: Exception) -> list[RequestOutput]:
        """Ends everything: sequences with ``reason``, compressions with ``error``."""
        self.compressions.end_all(error)
        self.scheduler.end_all(reason)
        return self.take_ended()

    def stats(self) -> EngineStats:
        """A snapshot of gauges and totals."""
        scheduler, counters = self.scheduler, self._counters
        return EngineStats(
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting,
            num_blocks=scheduler.pool.num_blocks,
            num_free_blocks=scheduler.pool.num_free,
            num_pinned_blocks=scheduler.pins.num_blocks,
            num_pinned_caches=len(scheduler.pins),
            num_steps=counters.steps,
            num_preemptions=scheduler.counters.preemptions,
            prompt_tokens=counters.prompt_tokens,
            prompt_tokens_cached=counters.prompt_tokens_cached,
            generation_tokens=counters.generation_tokens,
            prefix_cache_queries=scheduler.counters.prefix_queries,
            prefix_cache_hits=scheduler.counters.prefix_hits,
            gist_tokens_saved=counters.gist_tokens_saved,
            finished=dict(counters.finished),
        )

    def pin(self, cache: GistCache) -> PinnedCache:
        """Puts a cache into the pool, or counts one more pin of content that is there.

        Raises:
            CacheFullError: if it does not fit beside the queued sequences.
            ValueError: if it is not of the model's shape.
        """
        key = bytes.fromhex(cache.content_hash)
        scheduler = self.scheduler
        known = scheduler.pins.pin_again(key)
        if known is not None:
            return known
        num_blocks = -(-cache.slots // scheduler.pool.block_size)
        scheduler.check_room_for_pin(num_blocks)
        block_ids = scheduler.reserve(num_blocks)
        try:
            self.runner.write_cache(cache, block_ids)
        except Exception:
            scheduler.release(block_ids)
            raise
        pinned = PinnedCache(
            key=key,
            method=cache.manifest.method,
            slots=cache.slots,
            next_position=cache.next_position,
            prompt_tokens=cache.manifest.prompt_tokens,
            block_ids=tuple(block_ids),
            num_bytes=cache.num_bytes,
        )
        scheduler.pin(pinned)
        return pinned

    def _compute(self, output: SchedulerOutput) -> list[RequestOutput]:
        try:
            sampled = self._run(output)
        except Exception as error:
            if isinstance(error, torch.AcceleratorError):
                raise  # the device's context is lost
            logger.error("a step failed", exc_info=error)
            return self._compute_apart(output, error)
        return self._record(output, sampled)

    def _run(self, output: SchedulerOutput) -> SampledTokens:
        with self._pooler.pooling(output):
            logits, sequences = sampling_rows(output, self.runner.execute(output))
        return self._sampler.sample(logits, sequences)

    def _record(self, output: SchedulerOutput, sampled: SampledTokens) -> list[RequestOutput]:
        self.scheduler.update(output, sampled.token_ids)
        self._counters.steps += 1
        return step_outputs(output, sampled, self._counters)

    def _compute_apart(self, output: SchedulerOutput, error: Exception) -> list[RequestOutput]:
        """Computes the sequences of a failed step one by one, and ends those that fail again.

        Raises:
            Exception: if the model fails on anything.
        """
        outputs: list[RequestOutput] = []
        self._take_back(output)
        if len(output.sequences) == 1:
            self._fail(output, error)
        else:
            self.runner.copy_blocks(output.block_copies)
            for part in self.scheduler.split(output):
                try:
                    sampled = self._run(part)
                except Exception as its_error:
                    self._fail(part, its_error)
                else:
                    outputs += self._record(part, sampled)
        self.scheduler.pool.check()
        if not outputs:
            self._try_model()
        return outputs

    def _take_back(self, output: SchedulerOutput) -> None:
        """Undoes what a failed step has told its sequences."""
        for share in output.sequences:
            del share.sequence.prompt_logprobs[share.start :]

    def _fail(self, output: SchedulerOutput, error: Exception) -> None:
        """Ends the sequences of a step whose computation raised; the others go on."""
        message = f"the model failed on this request: {type(error).__name__}: {error}"
        for share in output.sequences:
            self.scheduler.end(share.sequence.request_id, "error", message)

    def _try_model(self) -> None:
        """Computes one token of nobody's; raises what the model raises."""
        pool = self.scheduler.pool
        if pool.num_free:
            block_ids = pool.allocate(1)
            try:
                self.runner.execute(single_token_step(block_ids[0], pool.block_size))
            finally:
                pool.release(block_ids)
