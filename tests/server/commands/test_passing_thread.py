"""Work in a thread of its own that is over when the result is there."""

import threading

import pytest
from gistserve.server.commands.passing_thread import in_passing_thread


def test_the_result_comes_from_a_thread_that_has_ended():
    worker = in_passing_thread(threading.current_thread)
    assert worker is not threading.current_thread() and not worker.is_alive()


def test_errors_come_through_and_end_the_thread():
    before = threading.active_count()
    with pytest.raises(ValueError, match="no such model"):
        in_passing_thread(_fail)
    assert threading.active_count() == before


def _fail():
    raise ValueError("no such model")
