"""Times prefill and decode steps through the engine's public face."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from time import perf_counter

from ...server.engine.engine import Engine
from ...server.engine.errors import EngineError
from ...server.engine.request import Request, RequestOutput, SamplingParams

_TIMEOUT_SECONDS = 3600.0


@dataclass(frozen=True)
class PrefillTimes:
    """How long prompts took.

    Attributes:
        seconds: from the submission of all prompts to the last one's first token.
        steps: that the engine took for them.
        first_tokens: what was drawn behind each prompt.
    """

    seconds: float
    steps: int
    first_tokens: list[int]


@dataclass(frozen=True)
class DecodeTimes:
    """How long steps took in which every sequence got a token.

    Attributes:
        step_ms: of each of them, one after another.
        seq_lens: of every sequence in each of them, its new token included.
    """

    step_ms: list[float]
    seq_lens: list[int]


class EngineDriver:
    """Runs prompts together in an engine that nobody else uses."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ids = map(str, itertools.count())

    def prefill(self, prompts: Sequence[Sequence[int]]) -> PrefillTimes:
        """Computes prompts and one token behind each.

        Raises:
            RuntimeError: a request failed.
        """
        steps = self._engine.stats().num_steps
        run = self._run(prompts, 1)
        seconds = max(times[0] for times in run.times) - run.started
        # The step before the first one was that of the request which started the others.
        taken = self._engine.stats().num_steps - steps - 1
        return PrefillTimes(seconds, taken, [tokens[0] for tokens in run.tokens])

    def decode(self, prompts: Sequence[Sequence[int]], steps: int) -> DecodeTimes:
        """Goes on behind prompts of one length, which the prefix cache holds.

        The step that computes the prompts' last tokens is not counted, nor is any in which a
        sequence has not begun or has ended.

        Raises:
            RuntimeError: a request failed.
        """
        run = self._run(prompts, steps + 1)
        latest = max(run.times, key=lambda times: times[0])
        end = min(times[-1] for times in run.times)
        moments = [time for time in latest if time <= end]
        step_ms = [1e3 * (b - a) for a, b in pairwise(moments)]
        # The first of them computes the token that the step before has drawn.
        shortest = len(prompts[0]) + 1
        return DecodeTimes(step_ms, list(range(shortest, shortest + len(step_ms))))

    def _run(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> _Run:
        run = _Run(len(prompts))
        # Submitted between two steps, from the engine's own thread, all enter the same one.
        starter = Request(next(self._ids), prompts[0][:1], _sampling(1))
        requests = [Request(next(self._ids), p, _sampling(max_tokens)) for p in prompts]

        def start(_: RequestOutput) -> None:
            try:
                for row, request in enumerate(requests):
                    self._engine.submit(request, partial(run.take, row))
            except (EngineError, ValueError) as error:
                run.fail(str(error))
            run.started = perf_counter()

        self._engine.submit(starter, start)
        if not run.done.wait(_TIMEOUT_SECONDS):
            raise RuntimeError(f"the engine did not finish within {_TIMEOUT_SECONDS:g} s")
        if run.error is not None:
            raise RuntimeError(run.error)
        return run


class _Run:
    """Tokens and their times; filled on the engine's thread."""

    def __init__(self, num_requests: int) -> None:
        self.times: list[list[float]] = [[] for _ in range(num_requests)]
        self.tokens: list[list[int]] = [[] for _ in range(num_requests)]
        self.started = 0.0
        self.error: str | None = None
        self.done = threading.Event()
        self._running = num_requests

    def fail(self, error: str) -> None:
        self.error = error
        self.done.set()

    def take(self, row: int, output: RequestOutput) -> None:
        self.times[row].append(perf_counter())
        self.tokens[row] += output.new_token_ids
        if output.finish_reason is not None:
            self.error = self.error or output.error
            self._running -= 1
            if not self._running:
                self.done.set()


def _sampling(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
