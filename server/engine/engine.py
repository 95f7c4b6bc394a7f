"""The engine: a thread that runs steps, and the thread-safe face that others use."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as SequenceOf
from concurrent.futures import Future
from typing import Any

from transformers import PreTrainedModel

from ...compress.adapter import GistAdapter
from ...compress.cache import GistCache, Method
from .config import EngineConfig
from .delivery import LoopMailboxes, OutputInbox
from .engine_core import EngineCore
from .engine_info import EngineInfo, weight_bytes
from .engine_stats import EngineStats
from .errors import EngineDeadError, PromptTooLongError
from .model_runner import ModelRunner
from .openmp import release_helpers
from .pinned import PinnedCache
from .request import Request, RequestOutput
from .sequence import Sequence

__all__ = ["Engine", "EngineConfig", "EngineStats"]

OnOutput = Callable[[RequestOutput], None]

logger = logging.getLogger(__name__)


class Engine:
    """Serves one model from a thread of its own.

    Every public method may be called from any thread. Until ``shutdown`` the model belongs to the
    engine.

    Args:
        model: a causal LM of transformers, on the device where it shall run.
        config: limits and sizes.
        adapter: compresses prompts into gists; without one only "prefix" caches can be made.
        fingerprint: of the model (and adapter); caches of another one are refused. Empty: caches
            are taken unseen.
        runner: of this model and config, allocated; None makes one.

    Raises:
        UnsupportedModelError: if the model's class cannot be served.
        ValueError: if a size in ``config`` does not fit the model.
        GistAdapterError: if the adapter does not fit the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: EngineConfig,
        adapter: GistAdapter | None = None,
        *,
        fingerprint: str = "",
        runner: ModelRunner | None = None,
    ) -> None:
        self._core = EngineCore(model, config, adapter, fingerprint, runner)
        self._fingerprint = fingerprint
        self.max_model_len = self._core.runner.max_model_len
        """Most positions of a sequence, prompt and output together."""
        self.max_num_seqs = config.max_num_seqs
        """Most sequences that run at once; more wait."""
        self.vocab_size: int = model.get_input_embeddings().num_embeddings
        self.hidden_size: int = model.get_output_embeddings().weight.shape[-1]
        """Numbers in an embedding."""
        runner = self._core.runner
        self.info = EngineInfo(
            weight_bytes=weight_bytes(model),
            kv_bytes_per_token=runner.bytes_per_slot,
            block_size=runner.block_size,
            num_blocks=runner.num_blocks,
            kv_cache_bytes=runner.num_blocks * runner.block_size * runner.bytes_per_slot,
            max_model_len=runner.max_model_len,
            max_num_seqs=config.max_num_seqs,
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
        )
        self.end_token_ids = _end_token_ids(model)
        """Tokens that end a text."""
        self._consumers: dict[str, OnOutput] = {}
        self._futures: set[Future[Any]] = set()  # not done yet
        self._mailboxes = LoopMailboxes()
        self._wake = threading.Condition()
        self._commands: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._stop_at: float | None = None  # time.monotonic() when what still runs is ended
        self._refusal: str | None = None  # why nothing more is taken
        self._step_began: float | None = None  # time.monotonic(); None while there is no work

    # --- life ---

    def start(self) -> None:
        """Starts the engine's thread; once.

        Ends the OpenMP helpers of the calling thread, as a rule the one that loaded the model.
        """
        with self._wake:
            if self._thread is not None or self._refusal is not None:
                raise RuntimeError("an engine can be started only once")
            release_helpers()
            self._thread = threading.Thread(target=self._run, name="gistserve-engine", daemon=True)
            self._thread.start()

    def shutdown(self, drain_seconds: float = 0.0) -> None:
        """Takes no more requests, lets the running ones finish, then stops.

        After ``drain_seconds`` what is left ends with finish_reason "abort". Returns when the
        thread has ended; the model is then as it was before. May be called again.
        """
        with self._wake:
            deadline = time.monotonic() + drain_seconds
            self._stop_at = min(deadline, self._stop_at or deadline)
            self._refusal = self._refusal or "the engine is shutting down"
            self._wake.notify()
            thread = self._thread
        if thread is None:
            self._core.runner.close()
        elif thread is not threading.current_thread():
            thread.join()

    @property
    def is_running(self) -> bool:
        """Whether requests are taken."""
        return self._thread is not None and self._refusal is None

    @property
    def seconds_in_step(self) -> float:
        """How long ago the step that runs began; 0 while none does."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    def stats(self) -> EngineStats:
        """A snapshot of gauges and totals."""
        return self._core.stats()

    # --- generation ---

    def submit(self, request: Request, on_output: OnOutput) -> None:
        """Queues a request.

        Args:
            request: what to generate.
            on_output: called on the engine's thread with each output, the last one carrying a
                ``finish_reason``; it must return at once.

        Raises:
            PromptTooLongError: if the prompt leaves no position for a token.
            CacheFullError: if the prompt can never lie in the key/value cache.
            ValueError: for a token outside the vocabulary, a request id in use, or a cache that
                is not pinned.
            EngineDeadError: if the engine takes no requests.
        """
        sequence = self._sequence(request)
        self._core.scheduler.check(sequence)
        with self._wake:
            self._check_alive()
            if request.request_id in self._consumers:
                raise ValueError(f"request_id {request.request_id!r} is in use")
            self._consumers[request.request_id] = on_output
            self._commands.append(functools.partial(self._core.add, sequence))
            self._wake.notify()

    def submit_to(self, request: Request, inbox: OutputInbox) -> None:
        """Queues a request whose outputs go into an inbox of the running event loop.

        All outputs of a step wake the loop once. Raises as ``submit``.
        """
        mailbox = self._mailboxes.of(asyncio.get_running_loop())
        self.submit(request, functools.partial(mailbox.post, inbox))

    def abort(self, request_id: str) -> None:
        """Ends a request with finish_reason "abort" before the next step; unknown ids are
        ignored."""
        with self._wake:
            if request_id in self._consumers:
                self._commands.append(
                    functools.partial(self._core.scheduler.end, request_id, "abort")
                )
                self._wake.notify()

    def is_waiting(self, request_id: str) -> bool:
        """Whether a request has not begun to be computed; False for unknown ids."""
        with self._wake:
            known = request_id in self._consumers
        return known and not self._core.scheduler.has_begun(request_id)

    async def generate(self, request: Request) -> AsyncIterator[RequestOutput]:
        """Yields a request's outputs; aborts it if the consumer goes away. Raises as ``submit``."""
        inbox = OutputInbox()
        self.submit_to(request, inbox)
        finished = False
        try:
            while not finished:
                for output in await inbox.take():
                    finished = output.finish_reason is not None
                    yield output
        finally:
            if not finished:
                self.abort(request.request_id)

    # --- caches ---

    def compress(self, token_ids: SequenceOf[int], method: Method) -> Future[GistCache]:
        """Makes a prompt's cache, in chunks between steps.

        The future raises GistAdapterError for "gist" without an adapter, CacheFullError if the
        prompt does not fit the key/value cache. Cancelling it stops the work at the next chunk.

        Raises:
            ValueError: for an empty prompt or a token outside the vocabulary.
            PromptTooLongError: if the prompt leaves no position for a token.
            EngineDeadError: if the engine takes no requests.
        """
        tokens = list(token_ids)
        if not tokens:
            raise ValueError("the prompt is empty: there is nothing to compress")
        self._check_vocabulary(tokens)
        self._check_length(self._core.compressions.num_slots(len(tokens), method), 1)
        future: Future[GistCache] = Future()
        self._command(
            functools.partial(self._core.compressions.add, tokens, method, future), future
        )
        return future

    def pin(self, cache: GistCache) -> Future[PinnedCache]:
        """Puts a cache into the block pool, where requests share it until it is unpinned.

        Content that is pinned already gets the same handle, and needs one more ``unpin``. The
        future raises CacheFullError if it does not fit beside the queued requests, ValueError if
        it is not of the model's shape. Hashes the content in the calling thread.

        Raises:
            GistCacheError: if the cache was made by another model.
            PromptTooLongError: if the cache leaves no position for a token.
            ValueError: for a gist on a model with sliding windows.
            EngineDeadError: if the engine takes no requests.
        """
        self.check_cache(cache)
        cache.content_hash  # noqa: B018  # computed here, not on the engine's thread
        future: Future[PinnedCache] = Future()
        self._command(
            lambda: _guard(future, lambda: future.set_result(self._core.pin(cache))), future
        )
        return future

    def check_cache(self, cache: GistCache) -> None:
        """Raises GistCacheError, PromptTooLongError and ValueError as ``pin`` does."""
        if self._fingerprint:
            cache.manifest.verify({"model_fingerprint": self._fingerprint})
        if cache.manifest.method == "gist" and self._core.runner.has_sliding_window:
            raise ValueError("a gist cannot be used on a model with sliding-window layers")
        self._check_length(cache.next_position, 1)

    def is_used(self, pinned: PinnedCache) -> bool:
        """Whether a request that the engine has begun to queue depends on a pinned cache."""
        return self._core.scheduler.pins.is_used(pinned)

    def unpin(self, pinned: PinnedCache) -> Future[None]:
        """Undoes one ``pin``. The future is done when no request uses the blocks any more.

        The future raises ValueError if the cache is not pinned.
        """
        future: Future[None] = Future()
        unpin = self._core.scheduler.pins.unpin
        on_free = functools.partial(future.set_result, None)
        self._command(lambda: _guard(future, lambda: unpin(pinned, on_free)), future)
        return future

    # --- inside, any thread ---

    def _sequence(self, request: Request) -> Sequence:
        self._check_vocabulary(request.token_ids)
        sampling = request.sampling
        self._check_vocabulary((*sampling.logit_bias, *sampling.stop_token_ids))
        start = request.pinned.next_position if request.pinned else 0
        wanted = 0 if request.embed else sampling.max_tokens
        room = self._check_length(start + len(request.token_ids), 0 if wanted == 0 else 1)
        return Sequence(request, room if wanted is None else min(wanted, room), self.end_token_ids)

    def _check_vocabulary(self, token_ids: SequenceOf[int]) -> None:
        if token_ids and not 0 <= min(token_ids) <= max(token_ids) < self.vocab_size:
            wrong = next(t for t in token_ids if not 0 <= t < self.vocab_size)
            raise ValueError(
                f"token id {wrong} is outside the model's vocabulary of {self.vocab_size} tokens"
            )

    def _check_length(self, num_positions: int, num_more: int) -> int:
        """Positions left after so many; PromptTooLongError if fewer than ``num_more``."""
        room = self.max_model_len - num_positions
        if room < num_more:
            raise PromptTooLongError(
                f"This model's maximum context length is {self.max_model_len} tokens. However, "
                f"the prompt takes {num_positions} and leaves no room for an answer."
            )
        return room

    def _check_alive(self) -> None:
        if self._refusal is not None:
            raise EngineDeadError(self._refusal)
        if self._thread is None:
            raise EngineDeadError("the engine has not been started")

    def _command(self, command: Callable[[], None], future: Future[Any]) -> None:
        """Lets the engine's thread run a command that a future waits for."""
        with self._wake:
            self._check_alive()
            self._futures.add(future)
            self._commands.append(command)
            self._wake.notify()
        future.add_done_callback(self._futures.discard)

    # --- inside, the engine's thread ---

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._step_began = time.monotonic()
                self._run_commands()
                self._deliver(self._core.step())
            self._run_commands()
            self._deliver(self._core.end_all("abort", EngineDeadError("the engine was shut down")))
        except BaseException as error:
            logger.exception("the engine has stopped")
            self._crash(error)
        finally:
            self._step_began = None
            self._core.runner.close()

    def _wait_for_work(self) -> bool:
        """Sleeps until there is something to do; False when the engine shall stop."""
        with self._wake:
            while not (self._commands or self._core.has_work):
                self._step_began = None
                if self._stop_at is not None:
                    return False
                self._wake.wait()
        return self._stop_at is None or time.monotonic() < self._stop_at

    def _run_commands(self) -> None:
        while self._commands:
            self._commands.popleft()()

    def _deliver(self, outputs: list[RequestOutput]) -> None:
        for output in outputs:
            request_id = output.request_id
            if output.finish_reason is None:
                on_output = self._consumers[request_id]
            else:
                with self._wake:
                    on_output = self._consumers.pop(request_id)
            try:
                on_output(output)
            except Exception:
                logger.exception("the consumer of request %s failed", request_id)
                self.abort(request_id)
        self._mailboxes.flush()

    def _crash(self, error: BaseException) -> None:
        """Fails everyone without asking the core, whose state can no longer be trusted."""
        message = f"the engine has stopped: {type(error).__name__}: {error}"
        with self._wake:
            self._refusal = message
            live = list(self._consumers)
        self._deliver([RequestOutput(i, [], finish_reason="error", error=message) for i in live])
        for future in list(self._futures):
            if not future.done():
                future.set_exception(EngineDeadError(message))


def _guard(future: Future[Any], command: Callable[[], None]) -> None:
    """Runs a command; what it raises reaches its future."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        command()
    except Exception as error:
        future.set_exception(error)


def _end_token_ids(model: PreTrainedModel) -> frozenset[int]:
    """The tokens that end a text, as the model's generation settings name them."""
    settings = model.generation_config or model.config
    ids = getattr(settings, "eos_token_id", None)
    if ids is None:
        ids = getattr(model.config, "eos_token_id", None)
    if ids is None:
        return frozenset()
    return frozenset([ids] if isinstance(ids, int) else ids)
