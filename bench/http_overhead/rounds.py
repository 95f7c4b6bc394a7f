"""Rounds in which HTTP and the engine driven directly take turns on the same requests."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np

from ..load.client import LoadClient, get_json
from ..load.errors import LoadError
from ..load.loops import Sender, closed_loop
from ..load.measures import figures
from ..load.sample import Sample
from ..load.words import TokensPerWord
from ..load.workload import LoadRequest, Workload
from .direct import DirectClient
from .scheduling import patient

DIRECT, HTTP, COMPETING = "direct", "http", "http_competing"
"""The engine driven directly; over HTTP; the same with a client that interrupts the server."""
_HEALTH_MODULE = "gistserve.bench.http_overhead.health"


@dataclass(frozen=True)
class Rounds:
    """Measures both arms.

    Attributes:
        direct: drives the engine in this process.
        http: asks the server, which is another process, from this one.
        session: connections to the server.
        tokens: how the model's tokenizer splits words.
        concurrency: streams at a time.
        requests: of each arm in a round.
        on_step: called with a line before every measurement.
    """

    direct: DirectClient
    http: LoadClient
    session: aiohttp.ClientSession
    workload: Workload
    tokens: TokensPerWord
    concurrency: int
    requests: int
    on_step: Callable[[str], None]

    async def run(self, rounds: int, seed: int) -> list[dict[str, Any]]:
        """Figures by arm of every round; a first round, not kept, warms up.

        Raises:
            LoadError: requests fail, or the arms did not do the same work.
        """
        found = []
        for number in range(rounds + 1):
            title = f"round {number} of {rounds}" if number else "warm-up"
            requests = self._draw(np.random.default_rng((seed, number)))
            self.direct.prepare(requests)
            arms = {DIRECT: self._direct, HTTP: self._patiently, COMPETING: self._over_http}
            first = number % len(arms)
            order = [*arms][first:] + [*arms][:first]
            figures_of = {}
            for arm in order:
                self.on_step(f"{title}: {arm}")
                figures_of[arm] = await arms[arm](requests)
            _check_same_work(figures_of)
            found.append({arm: figures_of[arm] for arm in arms})
        return found[1:]

    async def health(self, count: int, interval: float, seed: int) -> dict[str, list[float]]:
        """Milliseconds of /health, ``idle`` and ``loaded`` (with all streams running)."""
        self.on_step("health: idle")
        idle = await self._probe(count, interval)
        self.on_step("health: loaded")
        rng = np.random.default_rng((seed, 2**32))
        probing = asyncio.ensure_future(self._probe(count, interval))

        def requests() -> Iterator[LoadRequest]:
            while not probing.done():
                yield from self._draw(rng)

        samples = await closed_loop(self.http, requests(), self.concurrency, lambda _: None)
        _check_answered(samples)
        return {"idle": idle, "loaded": await probing}

    async def _probe(self, count: int, interval: float) -> list[float]:
        address = urlsplit(self.http.target.url)
        words = [str(address.hostname), str(address.port), str(count), str(interval)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", _HEALTH_MODULE, *words, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise LoadError(f"{self.http.target.url}/health could not be measured.")
        return [round(1e3 * seconds, 3) for seconds in json.loads(output)]

    async def _direct(self, requests: Sequence[LoadRequest]) -> dict[str, Any]:
        before = process_time()
        found = await self._loop(self.direct, requests)
        return found | {"processor_seconds": process_time() - before}

    async def _patiently(self, requests: Sequence[LoadRequest]) -> dict[str, Any]:
        with patient():
            return await self._over_http(requests)

    async def _over_http(self, requests: Sequence[LoadRequest]) -> dict[str, Any]:
        server, client = await self._server_processor(), process_time()
        found = await self._loop(self.http, requests)
        return found | {
            "client_processor_seconds": process_time() - client,
            "processor_seconds": await self._server_processor() - server,
        }

    async def _loop(self, client: Sender, requests: Sequence[LoadRequest]) -> dict[str, Any]:
        start = perf_counter()
        samples = await closed_loop(client, requests, self.concurrency, lambda _: None)
        duration = perf_counter() - start
        _check_answered(samples)
        return figures(samples, duration, None)

    async def _server_processor(self) -> float:
        info = await get_json(self.session, f"{self.http.target.url}/server_info")
        try:
            return float(info["process"]["processor_seconds"])
        except (TypeError, KeyError) as error:
            raise LoadError(
                f"{self.http.target.url}/server_info does not tell the server's processor time: "
                "it is not a gistserve of this version."
            ) from error

    def _draw(self, rng: np.random.Generator) -> list[LoadRequest]:
        return self.workload.draw_requests(self.requests, [], [], self.tokens, rng)


def _check_answered(samples: Sequence[Sample]) -> None:
    for failed in (sample for sample in samples if not sample.ok):
        raise LoadError(f"a request failed: {failed.error}.")


def _check_same_work(arms: dict[str, dict[str, Any]]) -> None:
    for name in ("prompt_tokens", "output_tokens"):
        direct = arms[DIRECT][name]
        for found in arms.values():
            if found[name] != direct:
                raise LoadError(
                    f"{name}: {found[name]} over HTTP, but {direct} of the engine driven directly; "
                    "is the server's model another one than --model, or does something else use "
                    "the server?"
                )
