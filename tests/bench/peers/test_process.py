"""Servers as processes: ready, held, ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gistserve.bench.load.errors import LoadError
from gistserve.bench.peers import process as module
from gistserve.bench.peers.process import PeerProcess

from .fakes import fake_program


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "server.log"


def make(log: Path, *options: str) -> PeerProcess:
    return PeerProcess(
        lambda port: [*fake_program(*options), "--port", str(port)], "/health", log, threads=3
    )


@pytest.fixture
def running(log: Path) -> Iterator[PeerProcess]:
    process = make(log)
    process.start()
    yield process
    process.stop()


def answers(process: PeerProcess, within: float = 60) -> bool:
    try:
        return httpx.get(f"{process.url}/health", timeout=within).is_success
    except httpx.TransportError:
        return False


def test_a_server_answers_only_while_awake(running: PeerProcess) -> None:
    assert answers(running)
    running.sleep()
    assert not answers(running, within=0.3)
    with running.awake():
        assert answers(running)
    assert not answers(running, within=0.3)
    assert running.is_alive()


def test_a_server_that_sleeps_takes_no_time(log: Path) -> None:
    process = make(log, "--spin")
    process.start()
    try:
        process.sleep()
        at_most = process.processor_seconds() + 0.1  # it stops a moment after the signal
        time.sleep(0.5)
        assert process.processor_seconds() < at_most
        with process.awake():
            deadline = time.monotonic() + 20
            while process.processor_seconds() < at_most and time.monotonic() < deadline:
                time.sleep(0.02)
        assert process.processor_seconds() >= at_most
    finally:
        process.stop()


def test_memory_and_time_are_those_of_the_process(running: PeerProcess) -> None:
    peak, seconds = running.peak_rss_bytes(), running.processor_seconds()
    assert peak is not None and 5e6 < peak < 1e9
    assert seconds is not None and 0 < seconds < 30


def test_a_sleeping_server_that_does_not_go_is_ended(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STOP_SECONDS", 0.2)
    process = make(log, "--deaf")
    process.start()
    process.sleep()
    process.stop()
    assert not process.is_alive()
    process.stop()


def test_a_server_that_ends_at_once_is_told_with_its_words(log: Path) -> None:
    process = make(log, "--refuse-start")
    with pytest.raises(LoadError, match="ended while starting:\nno such model"):
        process.start()


def test_a_program_that_is_not_there_is_told(log: Path) -> None:
    process = PeerProcess(lambda port: ["/nowhere/llama-server"], "/health", log, threads=1)
    with pytest.raises(LoadError, match=r"did not start: .*/nowhere/llama-server"):
        process.start()
    process.stop()


def test_a_server_that_is_never_ready_is_told(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_START_SECONDS", 0.3)
    sleeper = [fake_program()[0], "-c", "import time; print('loading', flush=True); time.sleep(60)"]
    process = PeerProcess(lambda port: sleeper, "/health", log, threads=1)
    with pytest.raises(LoadError, match=r"was not ready after 0\.3 s"):
        process.start()
    process.stop()
    assert not process.is_alive()


def test_threads_are_told_and_options_in_the_environment_left_out(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GISTSERVE_API_KEY", "secret")
    monkeypatch.setenv("LLAMA_ARG_THREADS", "9")
    monkeypatch.setenv("KEPT", "kept")
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "GISTSERVE_API_KEY", "LLAMA_ARG_THREADS", "KEPT"]
    code = f"import os, sys; sys.exit(str([os.environ.get(name) for name in {names}]))"
    process = PeerProcess(lambda port: [fake_program()[0], "-c", code], "/", log, threads=7)
    with pytest.raises(LoadError, match=r"\['7', '7', None, None, 'kept'\]"):
        process.start()
