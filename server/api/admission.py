"""Bounds what may wait for one engine."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import queue_full

_MAX_RETRY_AFTER = 60
# Departures that the rate is taken from, and how old they may be.
_WINDOW_COUNT = 64
_WINDOW_SECONDS = 60.0


class Admission:
    """Counts what one engine has taken over HTTP (on the event loop only).

    Args:
        max_running: sequences that the engine runs at once.
        max_queue: sequences that may wait beyond these. A request with many choices enters whole
            while any place is free.
        max_queue_tokens: prompt tokens that may wait to be computed; None for no limit. A request
            that finds nobody waiting enters whatever its length.
        retry_after_seconds: what a refused client is told to wait until there is a measured rate.
        clock: seconds; tests set their own.
    """

    def __init__(
        self,
        max_running: int,
        max_queue: int,
        max_queue_tokens: int | None,
        retry_after_seconds: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.active = 0
        """Sequences that run or wait."""
        self.waiting_tokens = 0
        """Prompt tokens of the sequences that have not answered yet."""
        self._max_running = max_running
        self._max_queue = max_queue
        self._max_queue_tokens = max_queue_tokens
        self._retry_after_seconds = retry_after_seconds
        self._clock = clock
        self._departures: deque[float] = deque(maxlen=_WINDOW_COUNT)

    def check(self, num_tokens: int = 0) -> None:
        """Raises ApiError (429) when there is no place for so many prompt tokens."""
        waiting, limit = self.waiting_tokens, self._max_queue_tokens
        too_many = self.active >= self._max_running + self._max_queue
        if too_many or (limit is not None and waiting and waiting + num_tokens > limit):
            raise queue_full(self.retry_after())

    @contextmanager
    def place(self, num_tokens: int) -> Iterator[None]:
        """A place for a request that waits for what it needs before it joins the queue.

        Raises ApiError (429) as `check`.
        """
        self.check(num_tokens)
        self.active += 1
        self.waiting_tokens += num_tokens
        try:
            yield
        finally:
            self.active -= 1
            self.waiting_tokens -= num_tokens

    @contextmanager
    def stay(self, num_tokens: int) -> Iterator[None]:
        """A place from now to its end for work that is no sequence.

        Raises ApiError (429) as `check`.
        """
        self.check(num_tokens)
        self.enter(num_tokens)
        try:
            yield
        finally:
            self.begin(num_tokens)
            self.leave()

    def enter(self, num_tokens: int) -> None:
        """A sequence with so many prompt tokens joins the queue."""
        self.active += 1
        self.waiting_tokens += num_tokens

    def begin(self, num_tokens: int) -> None:
        """The prompt of a sequence has been computed."""
        self.waiting_tokens -= num_tokens

    def leave(self) -> None:
        """A sequence has ended."""
        self.active -= 1
        self._departures.append(self._clock())

    def retry_after(self) -> int:
        """Whole seconds until a sequence that arrives now would run, at the rate at which others
        have ended lately."""
        now = self._clock()
        while self._departures and self._departures[0] < now - _WINDOW_SECONDS:
            self._departures.popleft()
        if not self._departures:
            return self._retry_after_seconds
        seconds_each = (now - self._departures[0]) / len(self._departures)
        before_it = max(1, self.active - self._max_running + 1)
        return min(_MAX_RETRY_AFTER, max(1, math.ceil(before_it * seconds_each)))
