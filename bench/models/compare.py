"""The whole comparison."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
from ..load.workload import Workload, read_prompt
from .contender import Contender, contenders, gist_row
from .quality import Labelled, answers, scores
from .rounds import Rounds
from .served import ServerSettings, serving
from .sizes import sizes
from .summary import summarise

OnStep = Callable[[str], None]


@dataclass(frozen=True)
class ModelsSettings:
    """What is compared, and how.

    Attributes:
        sources: the models; ratios are to the first one.
        workload: what is asked; with a prompt file all requests follow that prompt.
        url: a server that runs already; None to start one.
        server: what one that is started is told.
        concurrency: requests at a time in a row, besides one.
        requests: of every row and arm in a round.
        labelled: prompts with their right responses; empty to measure no quality.
        max_tokens: of an answer to one of them.
    """

    sources: Sequence[ModelSource]
    workload: Workload
    url: str | None = None
    server: ServerSettings = field(default_factory=ServerSettings)
    api_key: str | None = None
    endpoint: Endpoint = Endpoint.completions
    concurrency: int = 8
    requests: int = 16
    rounds: int = 5
    labelled: Sequence[Labelled] = ()
    max_tokens: int = 64
    seed: int = 0
    timeout: float = 600.0

    @property
    def names(self) -> list[str]:
        """Names of the models."""
        return [source.name for source in self.sources]


def compare(settings: ModelsSettings, console: Console) -> dict[str, Any]:
    """Sizes, speed and quality of every model, for a result file; under a prompt, of every model
    with the full-prefix cache, and in rows of their own of models with gists.

    Raises:
        LoadError: the server does not start or answer, the same name is given twice, or a request
            did not use the cache of its row.
    """
    prompt = next(map(read_prompt, settings.workload.prompt_files), None)
    _check_names(settings.names, with_prompt=prompt is not None)
    if settings.server.adapters and prompt is None:
        raise LoadError("--gist-adapter compresses a prompt; give one with --prompt.")
    with serving(settings.sources, settings.url, settings.server) as url:
        return asyncio.run(_compare(settings, prompt, url, console))


def _check_names(names: Sequence[str], with_prompt: bool) -> None:
    if len(set(names)) < len(names):
        raise LoadError(f"Two models have one name ({', '.join(names)}); write NAME=PATH.")
    for name in names:
        if with_prompt and gist_row(name) in names:
            raise LoadError(
                f"{gist_row(name)!r} is the row of {name} with a gist; choose another name for the "
                "model that is called so."
            )


async def _compare(
    settings: ModelsSettings, prompt: str | None, url: str, console: Console
) -> dict[str, Any]:
    names = settings.names
    target = Target(
        url, names[0], settings.endpoint, api_key=settings.api_key, timeout=settings.timeout
    )
    async with open_session(target) as session:
        with console.status("asking the server") as status:
            info = await get_json(session, f"{url}/server_info") or {}
            taken = sizes(info, settings.sources)
            with_gists = {m["name"] for m in info.get("models", []) if m.get("gist_tokens")}
            async with contenders(names, prompt, with_gists, target, session) as compared:
                found = await _rounds(settings, compared, target, session, status.update)
                quality = await _quality(settings, compared, target, session, status.update)
        after = await get_json(session, f"{url}/server_info")
    speed = summarise(found, [contender.name for contender in compared])
    return {
        "version": info.get("version"),
        "server_rss_bytes": (after or {}).get("process", {}).get("rss_bytes"),
        "endpoint": settings.endpoint.value,
        "workload": settings.workload.facts(),
        "concurrency": settings.concurrency,
        "requests_each": settings.requests,
        "seed": settings.seed,
        "max_tokens": settings.max_tokens,
        "models": {
            c.name: taken[c.model]
            | ({"model": c.model, **c.prompt.facts()} if c.prompt else {})
            | {"speed": speed[c.name], "quality": quality.get(c.name)}
            for c in compared
        },
        "rounds": found,
    }


async def _rounds(
    settings: ModelsSettings,
    compared: Sequence[Contender],
    target: Target,
    session: aiohttp.ClientSession,
    on_step: OnStep,
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(settings.seed)
    clients, tokens = {}, {}
    for name in settings.names:
        found = await probe(replace(target, model=name), session, rng)
        clients[name] = LoadClient(found.target, session)
        tokens[name] = found.tokens
    rounds = Rounds(
        compared,
        clients,
        tokens,
        settings.workload,
        concurrency=settings.concurrency,
        requests=settings.requests,
        on_step=on_step,
    )
    return await rounds.run(settings.rounds, settings.seed)


async def _quality(
    settings: ModelsSettings,
    compared: Sequence[Contender],
    target: Target,
    session: aiohttp.ClientSession,
    on_step: OnStep,
) -> dict[str, Any]:
    if not settings.labelled:
        return {}
    found = {}
    for contender in compared:
        done = 0

        def advance(name: str = contender.name) -> None:
            nonlocal done
            done += 1
            on_step(f"{name}: {done} of {len(settings.labelled)} answers")

        texts = await answers(
            session,
            target,
            contender,
            settings.labelled,
            max_tokens=settings.max_tokens,
            concurrency=settings.concurrency,
            on_done=advance,
        )
        found[contender.name] = scores(texts, settings.labelled)
    return found
