"""How the kernel schedules the client of a server on the same machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def patient() -> Iterator[None]:
    """Meanwhile the calling thread interrupts nobody when it has something to do.

    Linux wakes a client on the core of the server that has just written to it, in place of that
    server; a client on another machine cannot do that. Elsewhere than on Linux nothing changes.
    """
    if not hasattr(os, "SCHED_BATCH"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)
