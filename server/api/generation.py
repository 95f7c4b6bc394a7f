"""Runs the choices of one HTTP request in an engine and yields them token by token."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...compress.record import PromptRecord
from ..engine.delivery import OutputInbox
from ..engine.errors import CacheFullError
from ..engine.grammar import Grammar
from ..engine.pinned import PinnedCache
from ..engine.request import Request, RequestOutput, SamplingParams, TokenLogprob
from ..logs import current_request
from .admission import Admission
from .detokenizer import IncrementalDetokenizer, StopStringScanner
from .errors import (
    ApiError,
    client_too_slow,
    context_length_exceeded,
    from_engine,
    queue_timeout,
    request_timeout,
    shutting_down,
)
from .request_meter import RequestMeter
from .served_models import ServedModel

# Wakes whoever waits for an output.
_NOTHING = RequestOutput("", [])
# Outputs that are kept for a client that does not read.
_MOST_UNREAD = 8192
# Tokens in front of a text completion that its first token's decoding may depend on.
_TEXT_CONTEXT = 6
_SEED_RANGE = 2**63


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """One prompt, tokenised.

    token_ids: tokens behind the registered prompt (all of them where there is none);
    registered: that prompt; continues_text: whether the output continues the
    prompt's last word, as in text completion.
    """

    token_ids: list[int]
    registered: PromptRecord | None = None
    continues_text: bool = False

    @property
    def logical_tokens(self) -> int:
        """Tokens that the whole prompt has uncompressed."""
        return len(self.token_ids) + (self.registered.prompt_tokens if self.registered else 0)

    @property
    def positions(self) -> int:
        """Positions that the whole prompt takes of the model's context."""
        return len(self.token_ids) + (self.registered.next_position if self.registered else 0)

    @property
    def gist_slots(self) -> int:
        """Slots that stand for a compressed prompt; 0 for a prefix cache."""
        record = self.registered
        return record.slots if record is not None and record.method == "gist" else 0


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How each of the n choices of a prompt is drawn, what it must look like, where it ends; or
    that nothing is drawn, for the prompt's embedding."""

    sampling: SamplingParams
    stops: Sequence[str] = ()
    n: int = 1
    grammar: Grammar | None = None
    embed: bool = False


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds after its start at which a generation is ended; None for no limit.

    queue: unless all its choices have begun to be computed; total: whatever it has done.
    """

    queue: float | None = None
    total: float | None = None


@dataclass(slots=True)
class Piece:
    """What one generated token adds to a choice; the last piece carries `finish_reason`.

    token_id is None in a piece that only ends the choice; text may be empty.
    """

    choice: int
    text: str
    token_id: int | None = None
    logprob: TokenLogprob | None = None
    finish_reason: str | None = None


@dataclass(slots=True)
class Choice:
    """State of one choice while it is generated."""

    index: int
    prompt: PreparedPrompt
    request: Request
    detokenizer: IncrementalDetokenizer
    scanner: StopStringScanner
    num_tokens: int = 0
    num_cached_tokens: int = 0
    prompt_logprobs: list[TokenLogprob | None] | None = None
    embedding: NDArray[np.float32] | None = None
    finish_reason: str | None = None
    begun: bool = False

    def feed(self, output: RequestOutput) -> Iterator[Piece]:
        """The pieces of one engine output; none once the choice has finished."""
        if self.finish_reason is not None:
            return
        self.num_cached_tokens = output.num_cached_tokens
        if output.prompt_logprobs is not None:
            self.prompt_logprobs = output.prompt_logprobs
        if output.embedding is not None:
            self.embedding = output.embedding
        last = len(output.new_token_ids) - 1
        for i, token_id in enumerate(output.new_token_ids):
            reason = output.finish_reason if i == last else None
            ends = reason == "stop" and token_id == output.stop_token_id
            logprob = output.logprobs[i] if output.logprobs else None
            yield self._piece(token_id, ends, logprob, reason)
            if self.finish_reason is not None:
                return
        if last < 0 and output.finish_reason is not None:
            self.finish_reason = output.finish_reason
            yield Piece(self.index, self.scanner.finish(), finish_reason=output.finish_reason)

    def _piece(
        self, token_id: int, ends: bool, logprob: TokenLogprob | None, reason: str | None
    ) -> Piece:
        self.num_tokens += 1
        text = self.scanner.add("" if ends else self.detokenizer.add(token_id))
        if self.scanner.stopped:
            reason = "stop"
        elif reason is not None:
            text += self.scanner.finish()
        self.finish_reason = reason
        return Piece(self.index, text, token_id, logprob, reason)


class _Inbox(OutputInbox):
    """Tells once when too many outputs wait to be read."""

    def __init__(self, on_overflow: Callable[[], None]) -> None:
        super().__init__()
        self._on_overflow = on_overflow

    def put(self, output: RequestOutput) -> None:
        super().put(output)
        if len(self) == _MOST_UNREAD:
            self._on_overflow()


@dataclass(eq=False)
class Generation:
    """The choices of one HTTP request in flight.

    `start` hands them to the engine, `pieces` yields what comes, `close` ends what still runs;
    whoever starts one must close it. `end` ends it early. All run on the event loop.
    """

    model: ServedModel
    choices: list[Choice]
    admission: Admission
    meter: RequestMeter
    limits: TimeLimits = TimeLimits()
    _ended_by: ApiError | None = None
    _failed_by: ApiError | None = None
    _timers: list[asyncio.TimerHandle] = field(default_factory=list)
    _running: set[str] = field(default_factory=set)
    _metered: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._inbox = _Inbox(lambda: self.end(client_too_slow()))

    def start(self) -> None:
        """Submits every choice.

        Raises:
            ApiError: the queue is full, or the engine refuses a request (none runs then).
        """
        self.admission.check(sum(len(choice.prompt.token_ids) for choice in self.choices))
        try:
            for choice in self.choices:
                self.model.engine.submit_to(choice.request, self._inbox)
                self._running.add(choice.request.request_id)
                self.admission.enter(len(choice.prompt.token_ids))
        except CacheFullError as error:  # it never fits; waiting would not help
            self.close()
            raise ApiError(400, str(error), code="kv_cache_too_small") from error
        except Exception as error:
            self.close()
            raise from_engine(error, self.model.max_model_len) from error
        self._set_timers()

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yields pieces of all choices as they come, until each has finished.

        Raises:
            ApiError: 500 if the engine failed on a choice, 503 if it shut down, or what `end` got.
        """
        async for pieces in self.batches():
            for piece in pieces:
                yield piece

    async def batches(self) -> AsyncIterator[Iterator[Piece]]:
        """As `pieces`, with all that have come by then at a time; use each up before the next."""
        by_id = {choice.request.request_id: choice for choice in self.choices}
        while self._running or self._ended_by is not None:
            outputs = await self._inbox.take()
            if self._ended_by is not None:
                raise self._ended_by
            yield self._pieces_of([(by_id[output.request_id], output) for output in outputs])
            if self._failed_by is not None:
                raise self._failed_by
        self.meter.answered()

    def _pieces_of(self, outputs: Sequence[tuple[Choice, RequestOutput]]) -> Iterator[Piece]:
        """The pieces of outputs up to one that tells of a failure."""
        for choice, output in outputs:
            if choice.finish_reason is None and output.finish_reason in ("abort", "error"):
                self._end(choice, output.finish_reason)
                self._failed_by = _failure(output)
                return
            self._begin(choice)
            self._meter_prompt(choice, output)
            for piece in choice.feed(output):
                if piece.token_id is not None:
                    self.meter.token(piece.choice)
                if piece.finish_reason is not None:
                    self._end(choice, piece.finish_reason, abort=output.finish_reason is None)
                yield piece

    def end(self, error: ApiError) -> None:
        """Ends what still runs; `pieces` raises the error in place of what would come next."""
        if self._running:
            self._ended_by = error
            self.close()
            self._inbox.put(_NOTHING)

    def close(self) -> None:
        """Aborts the choices that have not finished; their blocks are free at the next step."""
        for timer in self._timers:
            timer.cancel()
        for choice in self.choices:
            if choice.request.request_id in self._running:
                self._end(choice, "abort", abort=True)

    def _set_timers(self) -> None:
        loop = asyncio.get_running_loop()
        queue, total = self.limits.queue, self.limits.total
        if queue is not None:
            self._timers.append(loop.call_later(queue, self._check_begun))
        if total is not None:
            self._timers.append(loop.call_later(total, self.end, request_timeout()))

    def _check_begun(self) -> None:
        is_waiting = self.model.engine.is_waiting
        if any(is_waiting(request_id) for request_id in self._running):
            self.end(queue_timeout(self.admission.retry_after()))

    def _begin(self, choice: Choice) -> None:
        if not choice.begun:
            choice.begun = True
            self.admission.begin(len(choice.prompt.token_ids))

    def _meter_prompt(self, choice: Choice, output: RequestOutput) -> None:
        if id(choice.prompt) not in self._metered:
            self._metered.add(id(choice.prompt))
            prompt = choice.prompt
            self.meter.prompt(prompt.logical_tokens, output.num_cached_tokens, prompt.gist_slots)

    def _end(self, choice: Choice, reason: str, *, abort: bool = False) -> None:
        self._running.discard(choice.request.request_id)
        self._begin(choice)
        self.admission.leave()
        self.meter.finished(reason)
        if abort:
            self.model.engine.abort(choice.request.request_id)


def plan_generation(
    model: ServedModel,
    prompts: Sequence[PreparedPrompt],
    pinned: PinnedCache | None,
    settings: AnswerSettings,
    admission: Admission,
    meter: RequestMeter,
    limits: TimeLimits,
) -> Generation:
    """n choices for each prompt, in the prompts' order; not yet started.

    `pinned` is the cache of the registered prompt that all of them follow, if any.

    With a seed, choice i of a prompt draws with seed + i, so that choices differ.
    """
    choices: list[Choice] = []
    sampling = settings.sampling
    for prompt in prompts:
        for i in range(settings.n):
            params = replace(sampling, seed=_choice_seed(sampling.seed, i))
            context = prompt.token_ids[-_TEXT_CONTEXT:] if prompt.continues_text else ()
            choices.append(
                Choice(
                    index=len(choices),
                    prompt=prompt,
                    request=Request(
                        _engine_request_id(),
                        prompt.token_ids,
                        params,
                        pinned,
                        prompt.registered.prompt_token_ids if prompt.registered else (),
                        settings.grammar,
                        settings.embed,
                    ),
                    detokenizer=IncrementalDetokenizer(model.tokenizer, context),
                    scanner=StopStringScanner(settings.stops),
                )
            )
    return Generation(model, choices, admission, meter, limits)


def _engine_request_id() -> str:
    """Unique, where a client's own id may not be, and begun with it, so that logs tell it."""
    return f"{current_request() or 'req'}/{uuid.uuid4().hex[:16]}"


def check_fits(
    model: ServedModel, prompt: PreparedPrompt, max_tokens: int | None, param: str
) -> None:
    """Raises ApiError (400) unless prompt and `max_tokens` (None: at least one) fit the context."""
    limit, used = model.max_model_len, prompt.positions
    wanted = 1 if max_tokens is None else max_tokens
    if used + wanted <= limit:
        return
    raise context_length_exceeded(
        limit,
        f"However, you requested {used + wanted} tokens ({used} in the prompt, {wanted} in the "
        "completion). Please reduce the length of the prompt or of the completion.",
        param,
    )


def _choice_seed(seed: int | None, index: int) -> int | None:
    return seed if seed is None or index == 0 else (seed + index) % _SEED_RANGE


def _failure(output: RequestOutput) -> ApiError:
    if output.finish_reason == "abort":
        return shutting_down()
    return ApiError(
        500, output.error or "The model's engine failed on this request.", code="engine_error"
    )
