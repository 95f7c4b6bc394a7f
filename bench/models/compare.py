"""The whole comparison."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import numpy as np
from rich.console import Console

from ...server.commands.model_source import ModelSource
from ..load.client import LoadClient, get_json, open_session
from ..load.endpoint import Endpoint
from ..load.errors import LoadError
from ..load.probe import probe
from ..load.target import Target
from ..load.workload import Workload
from .contender import sizes
from .quality import Labelled, answers, scores
from .rounds import Rounds
from .served import serving
from .summary import summarise


@dataclass(frozen=True)
class ModelsSettings:
    """What is compared, and how.

    Attributes:
        sources: the models; ratios are to the first one.
        url: a server that runs already; None to start one.
        concurrency: requests at a time to a model, besides one.
        requests: of every model and arm in a round.
        labelled: prompts with their right responses; empty to measure no quality.
        max_tokens: of an answer to one of them.
    """

    sources: Sequence[ModelSource]
    workload: Workload
    url: str | None = None
    api_key: str | None = None
    endpoint: Endpoint = Endpoint.completions
    concurrency: int = 8
    requests: int = 16
    rounds: int = 5
    labelled: Sequence[Labelled] = ()
    max_tokens: int = 64
    seed: int = 0
    timeout: float = 600.0


def compare(settings: ModelsSettings, console: Console) -> dict[str, Any]:
    """Sizes, speed and quality of every model, for a result file.

    Raises:
        LoadError: the server does not start or answer, or the same name is given twice.
    """
    names = [source.name for source in settings.sources]
    if len(set(names)) < len(names):
        raise LoadError(f"Two models have one name ({', '.join(names)}); write NAME=PATH.")
    with serving(settings.sources, settings.url) as url:
        return asyncio.run(_compare(settings, url, console))


async def _compare(settings: ModelsSettings, url: str, console: Console) -> dict[str, Any]:
    names = [source.name for source in settings.sources]
    target = Target(
        url, names[0], settings.endpoint, api_key=settings.api_key, timeout=settings.timeout
    )
    async with open_session(target) as session:
        with console.status("asking the server") as status:
            info = await get_json(session, f"{url}/server_info")
            taken = sizes(info, settings.sources)
            found = await _rounds(settings, target, session, status.update)
            quality = await _quality(settings, target, session, status.update)
        after = await get_json(session, f"{url}/server_info")
    speed = summarise(found, names)
    return {
        "version": (info or {}).get("version"),
        "server_rss_bytes": (after or {}).get("process", {}).get("rss_bytes"),
        "endpoint": settings.endpoint.value,
        "workload": settings.workload.facts(),
        "concurrency": settings.concurrency,
        "requests_each": settings.requests,
        "seed": settings.seed,
        "max_tokens": settings.max_tokens,
        "models": {
            name: taken[name] | {"speed": speed[name], "quality": quality.get(name)}
            for name in names
        },
        "rounds": found,
    }


async def _rounds(
    settings: ModelsSettings, target: Target, session: aiohttp.ClientSession, on_step: Any
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(settings.seed)
    clients, tokens = {}, {}
    for source in settings.sources:
        found = await probe(replace(target, model=source.name), session, rng)
        clients[source.name] = LoadClient(found.target, session)
        tokens[source.name] = found.tokens
    rounds = Rounds(
        clients,
        tokens,
        settings.workload,
        concurrency=settings.concurrency,
        requests=settings.requests,
        on_step=on_step,
    )
    return await rounds.run(settings.rounds, settings.seed)


async def _quality(
    settings: ModelsSettings, target: Target, session: aiohttp.ClientSession, on_step: Any
) -> dict[str, Any]:
    if not settings.labelled:
        return {}
    found = {}
    for name in (source.name for source in settings.sources):
        done = 0

        def advance(name: str = name) -> None:
            nonlocal done
            done += 1
            on_step(f"{name}: {done} of {len(settings.labelled)} answers")

        texts = await answers(
            session,
            replace(target, model=name),
            settings.labelled,
            max_tokens=settings.max_tokens,
            concurrency=settings.concurrency,
            on_done=advance,
        )
        found[name] = scores(texts, settings.labelled)
    return found
