"""Trying again what may work the next time."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

Result = TypeVar("Result")

FIRST_WAIT = 1.0  # seconds
LONGEST_WAIT = 60.0
_LONGEST_ASKED_FOR = 600.0


class TransientError(Exception):
    """A failure that may pass. `wait`: seconds the other side asks for, None if it does not."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


async def with_retries(
    attempt: Callable[[], Awaitable[Result]], retries: int, on_retry: Callable[[], None]
) -> Result:
    """The result of the first attempt that raises no TransientError.

    Waits as long as the other side asks, or else twice as long each time, a little less by chance
    so that requests that failed together do not return together. Raises the last TransientError.
    """
    for tries in range(retries):
        try:
            return await attempt()
        except TransientError as error:
            on_retry()
            await asyncio.sleep(_wait(tries, error.wait))
    return await attempt()


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, section 10.2.3), None if it is none."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _wait(tries: int, asked_for: float | None) -> float:
    if asked_for is not None:
        return min(asked_for, _LONGEST_ASKED_FOR)
    return min(FIRST_WAIT * 2.0 ** min(tries, 64), LONGEST_WAIT) * random.uniform(0.75, 1)
