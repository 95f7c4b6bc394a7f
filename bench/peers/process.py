"""One of the servers as a child process, which sleeps while another one is measured."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from ...server.signals import interrupts_deferred
from ..load.errors import LoadError

_START_SECONDS = 900.0
_STOP_SECONDS = 20.0
_LOG_LINES = 15
_SERVER_OPTIONS = ("GISTSERVE_", "LLAMA_ARG_")


class PeerProcess:
    """A server on a free port of 127.0.0.1, in a process group of its own.

    Parameters
    ----------
    command : given the port, the words that start the server.
    ready_path : answers with success once the server can be used.
    log : file for the server's output.
    threads : for the libraries that read OMP_NUM_THREADS.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        ready_path: str,
        log: Path,
        threads: int,
    ) -> None:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._command = command(port)
        self._ready_path = ready_path
        self._log = log
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and return when the server is ready.

        Raises:
            LoadError: it cannot be started, ends, or takes too long; with the end of its log.
        """
        try:
            with self._log.open("wb") as output, interrupts_deferred():
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=_environment(self._threads),
                    start_new_session=True,
                )
        except OSError as error:
            raise LoadError(f"did not start: {error}") from error
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if not self.is_alive():
                raise LoadError(f"ended while starting:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise LoadError(f"was not ready after {_START_SECONDS:g} s:\n{self.log_tail()}")
            time.sleep(0.2)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let the process run inside the block; outside of it none of its threads takes time."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.sleep()

    def sleep(self) -> None:
        """Hold all threads of the process."""
        self._signal(signal.SIGSTOP)

    def stop(self) -> None:
        """End the process, by force if it does not go when asked."""
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log_tail(self) -> str:
        """The last lines of the server's output."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "\n".join(lines[-_LOG_LINES:])

    def peak_rss_bytes(self) -> int | None:
        """Most memory resident so far, mapped files included; None where no /proc tells it."""
        found = re.search(r"VmHWM:\s+(\d+) kB", self._proc("status"))
        return int(found[1]) * 1024 if found else None

    def processor_seconds(self) -> float | None:
        """Processor time taken so far by all threads; None where no /proc tells it."""
        # The second field is the program's name in brackets, and may hold anything.
        fields = self._proc("stat").rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK") if fields else None

    def _proc(self, name: str) -> str:
        assert self._process is not None
        try:
            return Path(f"/proc/{self._process.pid}/{name}").read_text(encoding="utf-8")
        except OSError:
            return ""

    def _signal(self, number: signal.Signals) -> None:
        if self.is_alive():
            assert self._process is not None
            os.killpg(self._process.pid, number)

    def _answers(self) -> bool:
        try:
            return httpx.get(self.url + self._ready_path, timeout=5.0).is_success
        except httpx.TransportError:
            return False


def _environment(threads: int) -> dict[str, str]:
    """Ours, without what would change a server's options unseen."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(_SERVER_OPTIONS)
    }
    number = str(threads)
    return kept | {
        "OMP_NUM_THREADS": number,
        "MKL_NUM_THREADS": number,
        # The model is a folder; nobody shall wait for the hub.
        "HF_HUB_OFFLINE": "1",
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
