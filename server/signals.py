"""Orderly ends: the signals that ask a process to stop unwind it like Ctrl-C."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_TERMINATE = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread for SIGTERM and SIGHUP as well as for SIGINT.

    Without it they end the process on the spot, and nothing that was begun is ended.
    """

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    with _handlers(_TERMINATE, interrupt):
        yield


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Raise the KeyboardInterrupt of a signal that arrives inside the block at its end.

    For what must not be torn in the middle, such as starting a process and noting it. Signals
    reach the main thread alone; in others this does nothing.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handlers((signal.SIGINT, *_TERMINATE), note):
        yield
    if received:
        raise KeyboardInterrupt


@contextmanager
def _handlers(
    signals: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    before = [signal.signal(number, handler) for number in signals]
    try:
        yield
    finally:
        for number, old in zip(signals, before, strict=True):
            signal.signal(number, old)
