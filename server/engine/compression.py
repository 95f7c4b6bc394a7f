"""Compressions that run on the engine's thread, a chunk between two steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future

import torch

from ...compress.cache import GistCache, Method
from ...compress.compressor import GistCompressor
from .model_runner import ModelRunner
from .scheduler import Scheduler


class CompressionQueue:
    """Runs one compression after the other, in blocks reserved from the pool.

    Args:
        compressor: makes the caches.
        runner: gives a session over the reserved blocks.
        scheduler: gives the blocks.
        chunk_size: tokens a chunk.
    """

    def __init__(
        self,
        compressor: GistCompressor,
        runner: ModelRunner,
        scheduler: Scheduler,
        chunk_size: int,
    ) -> None:
        self._compressor = compressor
        self._runner = runner
        self._scheduler = scheduler
        self._chunk_size = chunk_size
        self._jobs: deque[_Job] = deque()

    @property
    def has_work(self) -> bool:
        return bool(self._jobs)

    def num_slots(self, num_tokens: int, method: Method) -> int:
        """Slots, and positions, that compressing a prompt of so many tokens takes."""
        adapter = self._compressor.adapter
        gists = adapter.config.num_gist_tokens if adapter and method == "gist" else 0
        return num_tokens + gists

    def add(self, token_ids: list[int], method: Method, future: Future[GistCache]) -> None:
        """Queues a compression. A future that is cancelled stops it at the next chunk."""
        num_slots = self.num_slots(len(token_ids), method)
        num_blocks = -(-num_slots // self._scheduler.pool.block_size)

        def start(block_ids: list[int]) -> Generator[None, None, GistCache]:
            session = self._runner.kv_session(block_ids)
            return self._compressor.compress_steps(token_ids, session, self._chunk_size, method)

        self._jobs.append(_Job(num_blocks, start, future))

    def advance(self) -> None:
        """Computes the next chunk. What fails reaches the job's future alone."""
        for job in [job for job in self._jobs if job.future.cancelled()]:
            self._close(job)
        if not self._jobs:
            return
        job = self._jobs[0]
        try:
            cache = self._advance(job)
        except Exception as error:
            self._close(job)
            _fail(job.future, error)
            return
        if cache is not None:
            self._close(job)
            if job.future.set_running_or_notify_cancel():
                job.future.set_result(cache)

    def end_all(self, error: Exception) -> None:
        """Fails every job."""
        while self._jobs:
            job = self._jobs[0]
            self._close(job)
            _fail(job.future, error)

    def _advance(self, job: _Job) -> GistCache | None:
        if job.steps is None:
            job.block_ids = self._scheduler.reserve(job.num_blocks)
            job.steps = job.start(job.block_ids)
        with torch.no_grad():
            try:
                next(job.steps)
            except StopIteration as finished:
                cache: GistCache = finished.value
                return cache
        return None

    def _close(self, job: _Job) -> None:
        self._jobs.remove(job)
        if job.steps is not None:
            job.steps.close()
        self._scheduler.release(job.block_ids)


class _Job:
    __slots__ = ("block_ids", "future", "num_blocks", "start", "steps")

    def __init__(
        self,
        num_blocks: int,
        start: Callable[[list[int]], Generator[None, None, GistCache]],
        future: Future[GistCache],
    ) -> None:
        self.num_blocks = num_blocks
        self.start = start
        self.future = future
        self.block_ids: list[int] = []
        self.steps: Generator[None, None, GistCache] | None = None


def _fail(future: Future[GistCache], error: Exception) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
