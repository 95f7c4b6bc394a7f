"""A gistserve server as a child process on a free loopback port."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import httpx

from ..signals import interrupts_deferred

_URL = re.compile(r"http://127\.0\.0\.1:\d+")
_READ_SECONDS = 5.0


class ServerProcessError(RuntimeError):
    """The server did not start or did not stop; the message ends with the end of its log."""


class ServerProcess:
    """`gistserve serve` with these arguments, as a context manager that always stops it.

    Should this process end without leaving the context, the server ends as well.

    Entering starts the process without waiting, so that several can start at the same time;
    `wait_until_ready` follows.

    Parameters
    ----------
    arguments : options of `gistserve serve`; the address is chosen here.
    log : file that takes the server's output.
    api_key : handed over in the environment, where no other user can read it.
    start_seconds, stop_seconds : how long it may take to answer and to end.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        *,
        api_key: str | None = None,
        start_seconds: float = 300.0,
        stop_seconds: float = 20.0,
    ) -> None:
        self.url = ""
        self._arguments = list(arguments)
        self._log = log
        self._api_key = api_key
        self._start_seconds = start_seconds
        self._stop_seconds = stop_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ServerProcess":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process; does not wait for it."""
        environment = dict(os.environ)
        environment.pop("GISTSERVE_API_KEY", None)
        if self._api_key is not None:
            environment["GISTSERVE_API_KEY"] = self._api_key
        command = [sys.executable, "-m", "gistserve.server.demo.child", "serve"]
        address = ["--host", "127.0.0.1", "--port", "0"]
        with self._log.open("wb") as output, interrupts_deferred():
            # A session of its own: Ctrl-C at the terminal reaches the parent, which stops it.
            self._process = subprocess.Popen(
                [*command, *self._arguments, *address],
                stdin=subprocess.PIPE,  # closes when this process ends, and ends the server
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Return when the server answers /health; sets `url`. Raises ServerProcessError."""
        deadline = time.monotonic() + self._start_seconds
        while time.monotonic() < deadline:
            if not self.is_alive():
                raise ServerProcessError(f"the server ended while starting:\n{self.log_tail()}")
            if self._answers():
                return
            time.sleep(0.1)
        raise ServerProcessError(
            f"the server was not ready after {self._start_seconds:g} s:\n{self.log_tail()}"
        )

    def stop(self) -> int | None:
        """Ask the server to end, insist after `stop_seconds`; returns its exit code."""
        if self._process is None:
            return None
        assert self._process.stdin is not None
        if self.is_alive():
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(self._stop_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self._process.stdin.close()

    def kill(self) -> int | None:
        """End the server as a crash would; returns its exit code."""
        if self._process is None:
            return None
        self._process.kill()
        return self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server has not been started"
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the server's output."""
        text = self._log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.strip().splitlines()[-lines:])

    def _answers(self) -> bool:
        if not self.url:
            found = _URL.search(self._log.read_text(encoding="utf-8", errors="replace"))
            self.url = found[0] if found else ""
        try:
            return (
                bool(self.url) and httpx.get(f"{self.url}/health", timeout=_READ_SECONDS).is_success
            )
        except httpx.TransportError:
            return False
