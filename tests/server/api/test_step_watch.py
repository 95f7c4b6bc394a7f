"""An engine that does not come back from a step is told of, until it does."""

import asyncio
import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from gistserve.server.api.served_models import ServedModels
from gistserve.server.api.step_watch import StepWatch

from .conftest import GIST_MODEL, Loaded, Sites, until
from .test_metrics import scrape

CHAT = "/v1/chat/completions"
BODY = {"model": GIST_MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


def model(name: str, device: str, seconds: float) -> Any:
    info = SimpleNamespace(device=device)
    return SimpleNamespace(name=name, engine=SimpleNamespace(info=info, seconds_in_step=seconds))


@pytest.mark.parametrize(
    ("device", "seconds", "limit", "hung"),
    [
        ("cuda:0", 299.0, None, False),
        ("cuda:0", 301.0, None, True),
        ("cpu", 1799.0, None, False),
        ("cpu", 1801.0, None, True),
        ("cpu", 0.4, 0.5, False),
        ("cuda:0", 0.6, 0.5, True),
    ],
)
def test_a_step_may_take_so_long(
    device: str, seconds: float, limit: float | None, hung: bool
) -> None:
    watch = StepWatch([model("idle", device, 0.0), model("busy", device, seconds)], limit)
    assert watch.hung() == (["busy"] if hung else [])


def test_what_changes_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "gistserve")
    watched = model("m", "cpu", 0.0)
    watch = StepWatch([watched], 1.0)
    for watched.engine.seconds_in_step in (0.5, 2.0, 3.0, 0.1, 0.1, 2.0):
        watch.look()
    ended = ("ERROR", "a step of the engine does not end")
    moves = ("WARNING", "the engine moves again")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [ended, moves, ended]
    assert caplog.records[0].fields == {"model": "m", "seconds": 1.0}


@pytest.mark.anyio
async def test_health_is_503_while_a_step_hangs(
    sites: Sites, gist_loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = gist_loaded.serve()
    runner = served.engine._core.runner
    working, go_on = runner.execute, threading.Event()

    def hang(*args: Any) -> Any:
        go_on.wait(60)
        return working(*args)

    try:
        async with sites.open(ServedModels([served]), step_timeout=0.2) as site:
            health = site.app.state.context.steps
            await site.chat("Hello")
            await asyncio.sleep(0.3)  # without work no time counts
            assert (await site.client.get("/health")).status_code == 200
            assert (await scrape(site))["current_step_seconds"] == 0

            monkeypatch.setattr(runner, "execute", hang)
            asked = asyncio.create_task(site.post(CHAT, BODY))
            await until(health.hung)
            answer = await site.client.get("/health")
            assert answer.status_code == 503
            assert answer.json() == {"status": "engine_hung", "models": [GIST_MODEL]}
            assert (await scrape(site))["current_step_seconds"] > 0.2

            go_on.set()
            assert (await asked).status_code == 200
            assert (await site.client.get("/health")).status_code == 200
    finally:
        go_on.set()
        served.engine.shutdown()
