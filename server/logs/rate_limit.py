"""Warnings that repeat, told once in a while with how often they came."""

import logging
import time
from collections.abc import Callable
from typing import Any


class RepeatedWarning:
    """Logs the first of many like warnings at once, and the next at most every `seconds`.

    Used by one thread. A line says by `repeated` how many came since the last one.
    """

    def __init__(
        self,
        logger: logging.Logger,
        seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._seconds = seconds
        self._clock = clock
        self._next = float("-inf")
        self._count = 0

    def warn(self, message: str, count: int = 1, **fields: Any) -> None:
        """`count` more of them have come; the newest's message and values are told."""
        self._count += count
        now = self._clock()
        if now >= self._next:
            self._logger.warning(message, extra={"fields": fields | {"repeated": self._count}})
            self._next, self._count = now + self._seconds, 0
