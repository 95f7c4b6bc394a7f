"""The whole comparison."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import numpy as np
from rich.console import Console

from ..load.client import LoadClient, get_json, open_session
from ..load.endpoint import Endpoint
from ..load.errors import LoadError
from ..load.probe import probe
from ..load.target import Target
from ..started_server import started_server
from .arm import Arm
from .bench import Bench, OnStep
from .fidelity import fidelity
from .prompt_lengths import check_prompts
from .quality import Quality
from .room import Room
from .settings import PromptsSettings
from .shared_prefix import SharedPrefixLoad
from .summary import summarise_prompts, summarise_quality, summarise_shared
from .sweep import Sweep

_MODEL = "model"  # as it is served
# Tokens of synthetic prompts where none are asked for, and by how much they may be missed.
_LENGTHS = (64, 256, 1024, 4096, 8192)
_MARGIN = 1.1


def compare(settings: PromptsSettings, console: Console) -> dict[str, Any]:
    """Sizes, speed and quality of every arm, for a result file.

    Raises:
        LoadError: the server does not start or answer, something does not fit, or a request did
            not use the cache of its arm.
    """
    with console.status("starting the server") as status:
        # Where no line can be rewritten, in a log, every step has its own.
        on_step = status.update if console.is_terminal else console.print
        with started_server(lambda store: settings.server.arguments(_MODEL, store)) as url:
            result = asyncio.run(_compare(settings, url, on_step))
        if settings.labelled and settings.server.adapter is not None:
            on_step("comparing next-token distributions")
            result["quality"]["fidelity"] = fidelity(settings, settings.server.adapter)
    return result


async def _compare(settings: PromptsSettings, url: str, on_step: OnStep) -> dict[str, Any]:
    target = Target(url, _MODEL, Endpoint.chat, timeout=settings.timeout)
    async with open_session(target) as session:
        on_step("asking the server")
        info = await get_json(session, f"{url}/server_info")
        bench = await _bench(settings, target, session, info, on_step)
        served = next(model for model in info["models"] if model["name"] == _MODEL)
        del served["root"]  # a folder of this machine, and often a temporary one
        arms = list(Arm) if served["gist_tokens"] else [Arm.none, Arm.prefix]
        own = (served["gist_tokens"] or 0) + settings.input_tokens + settings.output_tokens
        prompts = settings.prompts or _synthetic(bench, bench.room.max_model_len - own)
        await check_prompts(bench, prompts, own)
        load = None
        if settings.shared is not None and Arm.gist in arms:
            load = SharedPrefixLoad(bench, settings.shared, own)
        rounds = await Sweep(bench, prompts, arms).run()
        shared = None if load is None else await load.run()
        answered = await Quality(bench, arms).run() if settings.labelled else None
    return {
        "model": {**served, "name": settings.title, "trained": settings.trained},
        "arms": [arm.value for arm in arms],
        "workload": {
            "input_tokens": settings.input_tokens,
            "output_tokens": settings.output_tokens,
            "concurrencies": list(settings.concurrencies),
            "requests": settings.requests,
            "rounds": settings.rounds,
            "seed": settings.seed,
        },
        "budget_bytes": settings.budget,
        "synthetic": not settings.prompts,
        "prompts": summarise_prompts(rounds, arms, bench.room, settings.budget),
        "shared": shared and summarise_shared(shared, bench.room, settings.shared),
        "quality": answered and summarise_quality(answered, settings.labelled),
        "raw": {"prompts": rounds, "shared": shared, "answers": answered},
    }


async def _bench(
    settings: PromptsSettings,
    target: Target,
    session: aiohttp.ClientSession,
    info: Any,
    on_step: OnStep,
) -> Bench:
    room = Room.of(info, _MODEL)
    found = await probe(target, session, np.random.default_rng(settings.seed))
    if not found.tells_usage or not found.target.ignore_eos:
        raise LoadError("The server tells no usage, or refuses ignore_eos; is it gistserve?")
    client = LoadClient(found.target, session)
    return Bench(settings, client, session, found.tokens, room, on_step)


def _synthetic(bench: Bench, longest: int) -> dict[str, str]:
    """The lengths asked for, or the usual ones up to `longest` tokens."""
    usual = [n for n in _LENGTHS if n * _MARGIN <= longest] or _LENGTHS[:1]
    lengths = bench.settings.lengths or usual
    rng = np.random.default_rng((bench.settings.seed, 0))
    return {f"{length:,}": bench.tokens.text(length, rng) for length in lengths}
