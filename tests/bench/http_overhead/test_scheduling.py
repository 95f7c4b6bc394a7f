"""A client that interrupts nobody, and only for as long as it is told to."""

import os
import threading

import pytest
from gistserve.bench.http_overhead.scheduling import patient


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux only")
def test_only_this_thread_is_patient_and_only_meanwhile() -> None:
    main = threading.get_native_id()
    seen = []

    def work() -> None:
        before = os.sched_getscheduler(0)
        with pytest.raises(ZeroDivisionError), patient():
            seen.append(os.sched_getscheduler(0))
            seen.append(os.sched_getscheduler(main))
            raise ZeroDivisionError
        seen.append(os.sched_getscheduler(0))
        seen.append(before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    inside, others, after, before = seen
    assert inside == os.SCHED_BATCH
    assert others == after == before != os.SCHED_BATCH
