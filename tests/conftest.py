"""Shared by all tests."""

import os
import signal
import sys
from collections.abc import Iterator

# Processes that test side by side, and the servers they start, share the cores out before torch
# counts them.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    share = max(1, (os.cpu_count() or 1) // int(workers))
    os.environ.setdefault("OMP_NUM_THREADS", str(share))

from importlib.util import find_spec

import pytest
import torch

if find_spec("hypothesis") is not None:  # the tests of a GPU need none, and may run without
    from hypothesis import settings

    # Examples are not timed: a busy machine would fail them for what it does besides.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=25, help="kill -9 so often in the tests of the prompt store"
    )


def pytest_configure() -> None:
    """Let SIGINT end the processes of tests also where a script has started pytest with `&`."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """A process has one precision for all accelerators: none outlives its test."""
    yield
    if (state := sys.modules.get("accelerate.state")) and not torch.distributed.is_initialized():
        state.AcceleratorState._reset_state(reset_partial_state=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``gpu`` where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
