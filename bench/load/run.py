"""A whole load test: probe, register, then a point for every concurrency or rate."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from time import perf_counter, process_time
from typing import Any

import aiohttp
import numpy as np
from rich.console import Console

from .arrivals import arrival_times
from .client import LoadClient, keeps_alive, open_session
from .errors import LoadError
from .loops import closed_loop, open_loop
from .measures import figures, raw
from .point import Point
from .probe import Probe, first_model, probe
from .progress import progress_of
from .registered import prompt_facts, registered
from .sample import Sample
from .server_metrics import agreement, scrape
from .settings import LoadSettings
from .target import Target
from .words import TokensPerWord
from .workload import LoadRequest

# A server may count a request a moment after its client has the whole answer.
_SETTLE_SECONDS = 0.2


def measure_load(settings: LoadSettings, console: Console) -> dict[str, Any]:
    """Figures and samples of every point, for a result file.

    Raises:
        LoadError: the server does not answer, or refuses what is asked.
    """
    return asyncio.run(_measure(settings, console))


async def _measure(settings: LoadSettings, console: Console) -> dict[str, Any]:
    rng = np.random.default_rng(settings.seed)
    target = Target(
        url=settings.url,
        model=settings.model or "",
        endpoint=settings.endpoint,
        api_key=settings.api_key,
        ignore_eos=settings.ignore_eos,
        timeout=settings.timeout,
    )
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(target))
        found = await probe(await _with_model(target, session), session, rng)
        prompts = settings.workload.draw_prompts(found.tokens, rng)
        resources: list[dict[str, Any]] = []
        if settings.register:
            if not prompts:
                raise LoadError("There is no shared prompt to register: give --prompts.")
            entered = registered(prompts, settings.register, found.target, session)
            resources = await stack.enter_async_context(entered)
        ids = [resource["id"] for resource in resources] or [None] * len(prompts)
        run = _Run(settings, found, session, prompts, ids, console)
        points = [await run.point(point, number) for number, point in enumerate(settings.points)]
        keep_alive = keeps_alive(session)
    return {
        "url": settings.url,
        "model": found.target.model,
        "endpoint": settings.endpoint.value,
        "ignore_eos": found.target.ignore_eos,
        "tells_usage": found.tells_usage,
        "tokens_per_word": found.tokens.ratio,
        "seed": settings.seed,
        "slo_ms": dict(settings.slo.limits) if settings.slo else None,
        "workload": settings.workload.facts(),
        "registered": prompt_facts(resources) if resources else None,
        "client": {
            "library": f"aiohttp {aiohttp.__version__}",
            "keep_alive": keep_alive,
        },
        "points": points,
    }


async def _with_model(target: Target, session: aiohttp.ClientSession) -> Target:
    return target if target.model else replace(target, model=await first_model(session, target.url))


class _Run:
    """What the points of a test share."""

    def __init__(
        self,
        settings: LoadSettings,
        found: Probe,
        session: aiohttp.ClientSession,
        prompts: Sequence[str],
        prompt_ids: Sequence[str | None],
        console: Console,
    ) -> None:
        self._settings = settings
        self._session = session
        self._client = LoadClient(found.target, session)
        self._tokens: TokensPerWord = found.tokens
        self._prompts = prompts
        self._prompt_ids = prompt_ids
        self._console = console

    async def point(self, point: Point, number: int) -> dict[str, Any]:
        """Warm up, measure, and compare with what the server counted."""
        rng = np.random.default_rng((self._settings.seed, number))
        await self._warm_up(point, number, rng)
        requests = self._draw(self._settings.requests, rng)
        target = self._client.target
        before = await scrape(self._session, target.url, target.model)
        wall, processor = perf_counter(), process_time()
        samples = await self._send(point, requests, rng)
        duration, busy = perf_counter() - wall, process_time() - processor
        await asyncio.sleep(_SETTLE_SECONDS if before else 0)
        after = await scrape(self._session, target.url, target.model)
        return {
            "load": point.facts(),
            **figures(samples, duration, self._settings.slo),
            "client_processor_share": busy / duration,
            "server": agreement(before, after, _client_totals(samples)),
            "samples": raw(samples),
        }

    async def _warm_up(self, point: Point, number: int, rng: np.random.Generator) -> None:
        count = self._settings.warmup
        if count and number == 0:
            count = max(count, len(self._prompts))
        concurrency = min(point.concurrency or 1, max(1, count))
        requests = self._draw(count, rng)
        with progress_of(f"{point}: warm-up", count, self._console) as advance:
            await closed_loop(self._client, requests, concurrency, advance)

    async def _send(
        self, point: Point, requests: Sequence[LoadRequest], rng: np.random.Generator
    ) -> list[Sample]:
        with progress_of(str(point), len(requests), self._console) as advance:
            if point.concurrency is not None:
                return await closed_loop(self._client, requests, point.concurrency, advance)
            assert point.rate is not None
            times = arrival_times(len(requests), point.rate, point.burstiness, rng)
            return await open_loop(self._client, requests, times.tolist(), advance)

    def _draw(self, count: int, rng: np.random.Generator) -> list[LoadRequest]:
        return self._settings.workload.draw_requests(
            count, self._prompts, self._prompt_ids, self._tokens, rng
        )


def _client_totals(samples: Sequence[Sample]) -> dict[str, float]:
    """What the server counts too, over the requests that were answered."""
    done = [sample for sample in samples if sample.ok]
    return {
        "requests": len(done),
        "prompt_tokens": sum(sample.prompt_tokens or 0 for sample in done),
        "output_tokens": sum(sample.output_tokens or 0 for sample in done),
        "ttft_seconds": sum(sample.ttft or 0.0 for sample in done),
        "e2el_seconds": sum(sample.e2el or 0.0 for sample in done),
    }
