"""Work in a thread that ends with it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_passing_thread(work: Callable[[], T]) -> T:
    """What `work` returns or raises.

    Each thread that computes with torch on a CPU keeps helpers for its parallel loops until it
    ends, and while there are more helpers than cores, libgomp puts them to sleep after every loop
    instead of letting them wait for the next one, by which a decode step takes half as long again.
    So nothing but an engine's thread may compute in a process that stays.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name="gistserve-loading", daemon=True)
    thread.start()
    try:
        return future.result()
    finally:
        if future.done():
            thread.join()
