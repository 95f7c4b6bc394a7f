"""Orderly ends: the signals that ask a process to stop unwind it like Ctrl-C."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread for SIGTERM and SIGHUP as well as for SIGINT.

    Without it they end the process on the spot, and nothing that was begun is ended.
    """

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signals = [signal.SIGTERM, signal.SIGHUP]
    before = [signal.signal(number, interrupt) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
