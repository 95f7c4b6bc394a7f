"""The server under test: started, told to end, killed, and looked at from outside."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from ...server.demo.process import ServerProcess

# Far longer than --shutdown-timeout, for machines that have more to do.
_STOP_SECONDS = 120.0
_GAUGES = {
    "num_requests_running": "running",
    "num_requests_waiting": "waiting",
    "kv_cache_blocks_used": "used_blocks",
    "kv_cache_blocks_pinned": "pinned_blocks",
}


class SoakServer:
    """One server after the other on the same store.

    Args:
        arguments: of `gistserve serve`.
        folder: takes the log of each.
    """

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self._arguments = arguments
        self._folder = folder
        self._process: ServerProcess | None = None
        self.life = 0
        """Which server this is; 0 before the first."""
        self.ending: str | None = None
        """How the server is being ended, until the next one answers."""
        self.lives: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        assert self._process is not None
        return self._process.url

    def start(self) -> None:
        """Starts the next server and waits until it answers. Raises ServerProcessError."""
        began = time.monotonic()
        self._process = ServerProcess(
            self._arguments, self._folder / f"server-{self.life}.log", stop_seconds=_STOP_SECONDS
        )
        self._process.start()
        self._process.wait_until_ready()
        self.lives.append({"start_seconds": round(time.monotonic() - began, 2)})
        self.life += 1
        self.ending = None

    async def end(self, how: str) -> None:
        """Ends the server by SIGKILL or SIGTERM."""
        assert self._process is not None
        self.ending = how
        began = time.monotonic()
        code = await asyncio.to_thread(
            self._process.kill if how == "SIGKILL" else self._process.stop
        )
        self.lives[-1] |= {
            "ended_by": how,
            "exit_code": code,
            "end_seconds": round(time.monotonic() - began, 2),
        }

    def close(self) -> None:
        if self._process is not None:
            self._process.stop()

    def is_alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def log_tail(self) -> str:
        return "" if self._process is None else self._process.log_tail()

    async def gauges(self, session: aiohttp.ClientSession) -> dict[str, int]:
        """Requests and blocks, from /metrics."""
        async with session.get(f"{self.url}/metrics") as response:
            families = text_string_to_metric_families(await response.text())
        found = {family.name.removeprefix("gistserve:"): family.samples for family in families}
        return {
            ours: int(sum(sample.value for sample in found[theirs]))
            for theirs, ours in _GAUGES.items()
        }

    def resources(self) -> dict[str, int]:
        """The process's resident bytes, threads and open files, from /proc."""
        assert self._process is not None
        folder = Path(f"/proc/{self._process.pid}")
        status = dict(
            line.split(":", 1)
            for line in (folder / "status").read_text().splitlines()
            if ":" in line
        )
        return {
            "rss_bytes": int(status["VmRSS"].split()[0]) * 1024,
            "threads": int(status["Threads"]),
            "files": len(os.listdir(folder / "fd")),
        }
