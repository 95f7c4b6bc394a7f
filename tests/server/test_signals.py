import os
import signal
import threading

import pytest
from gistserve.server.signals import interrupts_deferred, terminate_as_interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_request_to_stop_is_an_interrupt(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), terminate_as_interrupt():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_deferred_interrupt_comes_after_the_block(number: signal.Signals) -> None:
    finished = False
    with pytest.raises(KeyboardInterrupt), terminate_as_interrupt(), interrupts_deferred():
        os.kill(os.getpid(), number)
        finished = True
    assert finished


def test_nothing_is_raised_without_a_signal() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts_deferred():
        pass
    assert signal.getsignal(signal.SIGINT) is before


def test_deferring_in_another_thread_does_nothing() -> None:
    errors: list[Exception] = []

    def run() -> None:
        try:
            with interrupts_deferred():
                pass
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert errors == []
