"""Requests that wait or run too long are ended, and free what they held."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gistserve.server.api import generation

from .asgi import http_scope
from .conftest import GIST_MODEL, LONG_CHAT, Site, Sites, sse, until

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Site], Any]]:
    """Stops an engine's steps until the test is over, or until what it gives back is set."""
    go = threading.Event()

    def stop(site: Site) -> threading.Event:
        runner = site.app.state.context.models.get(GIST_MODEL).engine._core.runner
        execute = runner.execute
        monkeypatch.setattr(runner, "execute", lambda step: (go.wait(60), execute(step))[1])
        return go

    yield stop
    go.set()


def nothing_is_left(site: Site) -> Callable[[], bool]:
    engine = site.app.state.context.models.get(GIST_MODEL).engine
    admission = site.app.state.context.desks[GIST_MODEL].admission

    def free() -> bool:
        stats = engine.stats()
        assert (admission.active, admission.waiting_tokens) == (0, 0)
        return stats.num_running == stats.num_waiting == 0

    return free


async def test_a_request_that_takes_too_long_ends(sites: Sites, hold: Any) -> None:
    async with sites.open(request_timeout=0.3) as site:
        go = hold(site)
        whole, stream = await asyncio.gather(
            site.post(CHAT, LONG_CHAT), site.post(CHAT, LONG_CHAT | {"stream": True})
        )
        assert whole.status_code == 504
        assert whole.json()["error"]["code"] == "request_timeout"
        assert sse(stream)[-1]["error"]["code"] == "request_timeout"
        prompt = await site.post("/v1/prompts", {"text": "x" * 100})
        assert (prompt.status_code, prompt.json()["error"]["code"]) == (504, "request_timeout")
        go.set()
        await until(nothing_is_left(site))
        assert len(site.store) == 0


async def test_a_request_that_is_not_begun_in_time_ends_and_the_running_ones_go_on(
    sites: Sites, hold: Any
) -> None:
    async with sites.open(queue_timeout=0.3, retry_after_seconds=9) as site:
        go = hold(site)
        engine = site.app.state.context.models.get(GIST_MODEL).engine
        running = asyncio.create_task(site.post(CHAT, LONG_CHAT | {"max_tokens": 3}))
        await until(lambda: engine.stats().num_running)
        late = await site.post(CHAT, LONG_CHAT)
        assert late.status_code == 429
        assert late.json()["error"]["code"] == "queue_timeout"
        assert late.headers["retry-after"] == "9"
        assert not running.done()
        go.set()
        assert (await running).status_code == 200
        await until(nothing_is_left(site))


async def test_prompt_tokens_that_wait_are_bounded(sites: Sites, hold: Any) -> None:
    async with sites.open(max_queue_tokens=300) as site:
        go = hold(site)
        body = {"prompt": "x" * 200, "max_tokens": 1}
        admission = site.app.state.context.desks[GIST_MODEL].admission
        first = asyncio.create_task(site.post("/v1/completions", body))
        await until(lambda: admission.waiting_tokens)
        assert (await site.post("/v1/completions", body)).status_code == 429
        short = asyncio.create_task(site.post("/v1/completions", body | {"prompt": "x" * 50}))
        await until(lambda: admission.active == 2)
        go.set()
        assert (await first).status_code == (await short).status_code == 200
        assert (await site.post("/v1/completions", body)).status_code == 200
        await until(nothing_is_left(site))


async def test_a_stream_that_is_not_read_ends_and_keeps_little(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "_MOST_UNREAD", 20)
    engine = site.app.state.context.models.get(GIST_MODEL).engine
    reading = asyncio.Event()
    received: list[bytes] = []
    body = json.dumps(LONG_CHAT | {"stream": True}).encode()

    async def receive() -> dict[str, Any]:
        if not received:
            received.append(b"")
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        received.append(message.get("body", b""))
        await reading.wait()

    serving = asyncio.create_task(site.app(http_scope("POST", CHAT), receive, send))
    await until(lambda: engine.stats().num_running)
    await until(lambda: not engine.stats().num_running)
    reading.set()
    await serving
    *_, error, done = b"".join(received).strip().split(b"\n\n")
    assert done == b"data: [DONE]"
    assert b"client_too_slow" in error
    assert len(received) < 40
    await until(nothing_is_left(site))
