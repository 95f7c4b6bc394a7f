"""The whole comparison of HTTP with the engine driven directly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from ...server.commands.model_source import ModelSource
from ..load.client import LoadClient, open_session
from ..load.endpoint import Endpoint
from ..load.probe import probe
from ..load.target import Target
from ..load.workload import Workload
from ..models.served import serving
from .direct import DirectClient, direct_client
from .rounds import Rounds
from .summary import summarise

_SERVER_PACKAGES = ("uvicorn", "uvloop", "httptools", "fastapi", "starlette", "aiohttp")


@dataclass(frozen=True)
class OverheadSettings:
    """What is compared.

    Attributes:
        source: the model of both arms.
        url: a server that runs already, with default settings; None to start one.
        concurrency: streams at a time.
        requests: of each arm in a round.
        health_probes: of each kind, at least; 0 leaves /health out.
        health_interval: seconds between them.
    """

    source: ModelSource
    workload: Workload
    url: str | None = None
    concurrency: int = 64
    requests: int = 256
    rounds: int = 7
    health_probes: int = 300
    health_interval: float = 0.05
    seed: int = 0
    timeout: float = 600.0


def compare(settings: OverheadSettings, on_step: Callable[[str], None]) -> dict[str, Any]:
    """Rounds, their summary and the times of /health, for a result file.

    Raises:
        LoadError: the server does not start or answer, or the arms did not do the same work.
        EngineError, OSError: the model cannot be loaded.
    """
    with (
        serving([settings.source], settings.url) as url,
        direct_client(settings.source) as direct,
    ):
        return asyncio.run(_compare(settings, url, direct, on_step))


async def _compare(
    settings: OverheadSettings, url: str, direct: DirectClient, on_step: Callable[[str], None]
) -> dict[str, Any]:
    target = Target(url, settings.source.name, Endpoint.completions, timeout=settings.timeout)
    async with open_session(target) as session:
        found = await probe(target, session, np.random.default_rng(settings.seed))
        rounds = Rounds(
            direct=direct,
            http=LoadClient(found.target, session),
            session=session,
            workload=settings.workload,
            tokens=found.tokens,
            concurrency=settings.concurrency,
            requests=settings.requests,
            on_step=on_step,
        )
        measured = await rounds.run(settings.rounds, settings.seed)
        health = None
        if settings.health_probes:
            health = await rounds.health(
                settings.health_probes, settings.health_interval, settings.seed
            )
    return {
        "model": settings.source.name,
        "workload": settings.workload.facts(),
        "concurrency": settings.concurrency,
        "requests_each": settings.requests,
        "seed": settings.seed,
        "server_versions": {name: _version(name) for name in _SERVER_PACKAGES},
        "summary": summarise(measured, health),
        "rounds": measured,
        "health_ms": health,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
