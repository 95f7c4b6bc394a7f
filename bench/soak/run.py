"""A soak from its first quiet answers to its last check."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import numpy as np

from .catalogue import soak_prompts, soak_requests
from .client import SoakClient
from .findings import Findings
from .growth import growth
from .health_probe import HealthProbe
from .ledger import PromptLedger
from .quiet import check_quiet, quiet_answers
from .server import SoakServer
from .settings import SoakSettings
from .workers import Load

Progress = Callable[[str], None]

# Seconds of load between two looks at the quiet server.
_LOAD_SECONDS = (8.0, 20.0)


def run_soak(settings: SoakSettings, say: Progress) -> dict[str, Any]:
    """Figures and violations of a soak. Raises SoakFailed and ServerProcessError."""
    with TemporaryDirectory(prefix="gistserve-soak-") as folder:
        store = Path(folder) / "store"
        server = SoakServer(settings.arguments(store), Path(folder))
        probe = HealthProbe()
        try:
            return asyncio.run(_Soak(settings, server, probe, say).run())
        finally:
            probe.close()
            server.close()


class _Soak:
    def __init__(
        self, settings: SoakSettings, server: SoakServer, probe: HealthProbe, say: Progress
    ) -> None:
        self._settings = settings
        self._server = server
        self._probe = probe
        self._say = say
        self._rng = random.Random(settings.seed)
        self._findings = Findings()
        self._samples: list[dict[str, Any]] = []

    async def run(self) -> dict[str, Any]:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3.0)
        async with aiohttp.ClientSession(connector=connector) as session:
            load = await self._prepare(session)
            workers = [asyncio.create_task(load.work()) for _ in range(self._settings.workers)]
            try:
                await self._phases(load, session)
            finally:
                for worker in workers:
                    worker.cancel()
                results = await asyncio.gather(*workers, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return self._report(load)

    async def _prepare(self, session: aiohttp.ClientSession) -> Load:
        await asyncio.to_thread(self._server.start)
        client = SoakClient(session, self._server.url)
        prompts = soak_prompts()
        answers = await quiet_answers(client, prompts, list(soak_requests(prompts)))
        self._say(f"{len(answers)} answers of a quiet server noted")
        ledger = PromptLedger()
        load = Load(client, self._server, ledger, self._findings, prompts, answers, self._rng)
        for prompt in prompts:
            if not prompt.expires:
                await load.register(prompt, None)
        return load

    async def _phases(self, load: Load, session: aiohttp.ClientSession) -> None:
        began = time.monotonic()
        self._findings.began = began
        while (passed := time.monotonic() - began) < self._settings.seconds:
            calm = passed < self._settings.calm_share * self._settings.seconds
            self._probe.watch(self._server.url)
            load.gate.set()
            await self._load_phase(load, None if calm else self._rng.choice(_ENDS))
            load.gate.clear()
            await load.idle()
            self._probe.watch(None)
            self._samples.append(await check_quiet(load, session))
            self._say(_line(self._samples[-1], self._findings))
            if not self._server.is_alive():
                self._findings.violate("the server ended", log=self._server.log_tail())
                return

    async def _load_phase(self, load: Load, end: str | None) -> None:
        """Load, with an overload in it, and with an end and a new beginning of the server."""
        await asyncio.sleep(self._rng.uniform(*_LOAD_SECONDS))
        if self._rng.random() < 0.5:
            await load.burst()
        if end is not None:
            self._probe.watch(None)
            await self._server.end(end)
            if end == "SIGKILL":
                load.ledger.killed()
            await asyncio.to_thread(self._server.start)
            load.client.url = self._server.url
            if end == "SIGTERM" and self._server.lives[-2]["exit_code"] != 0:
                self._findings.violate("SIGTERM did not end well", **self._server.lives[-2])

    def _report(self, load: Load) -> dict[str, Any]:
        lives = [list(group) for _, group in groupby(self._samples, lambda s: s["life"])]
        memory = growth(max(lives, key=len)) if lives else growth([])
        if memory["is_flat"] is False:
            self._findings.violate("memory grows", **memory)
        milliseconds = 1000 * np.array(self._probe.seconds or [np.nan])
        return {
            "settings": {**asdict(self._settings), "model": self._settings.model.name},
            "requests": len(load.answers),
            "outcomes": dict(sorted(self._findings.outcomes.items())),
            "num_violations": self._findings.num_violations,
            "violations": self._findings.violations,
            "memory": memory,
            "health_ms": {
                "count": len(self._probe.seconds),
                **{f"p{q}": float(np.percentile(milliseconds, q)) for q in (50, 90, 99)},
                "max": float(milliseconds.max()),
            },
            "lives": self._server.lives,
            "samples": self._samples,
        }


_ENDS = ("SIGKILL", "SIGTERM", None)


def _line(sample: dict[str, Any], findings: Findings) -> str:
    return (
        f"{sample['second']:.0f} s: server {sample['life']}, "
        f"{sample['rss_bytes'] / 2**20:.0f} MiB, {sample['files']} files, "
        f"{sample['pinned_blocks']} blocks pinned, {findings.outcomes['answered']} answered, "
        f"{findings.num_violations} violations"
    )
