"""Which OpenMP helpers a thread still has behind some work."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

_TASKS = Path("/proc/self/task")

needs_openmp = pytest.mark.skipif(
    not _TASKS.exists() or "OpenMP" not in torch.__config__.parallel_info(),
    reason="needs OpenMP, and Linux to tell threads",
)


def helpers_left_by(work: Callable[[], object]) -> set[Path]:
    """Threads that a parallel loop of a new thread made and `work` in that thread did not end."""
    left = []

    def run() -> None:
        before = set(_TASKS.iterdir())
        torch.ones(2**20).sum()
        assert set(_TASKS.iterdir()) - before
        work()
        # A thread that has ended may be listed for a moment.
        deadline = time.monotonic() + 10
        while set(_TASKS.iterdir()) - before and time.monotonic() < deadline:
            time.sleep(0.01)
        left.append(set(_TASKS.iterdir()) - before)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(threads)
    return left[0]
