"""Registrations that wait: how many may, and what becomes of those whose client goes away."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from gistserve.server.engine.engine import Engine

from .asgi import http_scope
from .conftest import GIST_MODEL, Site, Sites, until

pytestmark = pytest.mark.anyio

PROMPTS = "/v1/prompts"


def engine_of(site: Site) -> Engine:
    engine = site.app.state.context.models.get(GIST_MODEL).engine
    assert isinstance(engine, Engine)
    return engine


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Site], threading.Event]]:
    """Stops an engine's compressions until what it gives back is set, or the test is over."""
    go = threading.Event()

    def stop(site: Site) -> threading.Event:
        compressions = engine_of(site)._core.compressions
        advance = compressions.advance
        monkeypatch.setattr(compressions, "advance", lambda: (go.wait(60), advance())[1])
        return go

    yield stop
    go.set()


class Caller:
    """A client of one registration that may go away before it is answered."""

    def __init__(self, site: Site, **body: Any) -> None:
        self._body = json.dumps(body).encode()
        self._read = False
        self._left = asyncio.Event()
        self.statuses: list[int] = []
        self.served = asyncio.create_task(
            site.app(http_scope("POST", PROMPTS), self._receive, self._send)
        )

    def leave(self) -> None:
        self._left.set()

    async def _receive(self) -> dict[str, Any]:
        if not self._read:
            self._read = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.statuses.append(message["status"])


def queue_of(site: Site) -> Any:
    return site.app.state.context.desks[GIST_MODEL].registrations


def num_asked(site: Site) -> int:
    """Compressions that somebody waits for."""
    return len(engine_of(site)._futures)


def num_jobs(site: Site) -> int:
    """Compressions that the engine's thread has before it."""
    return len(engine_of(site)._core.compressions._jobs)


async def listed(site: Site) -> list[str]:
    return [prompt["id"] for prompt in (await site.client.get(PROMPTS)).json()["data"]]


async def test_what_waits_is_bounded(sites: Sites, hold: Any) -> None:
    async with sites.open(max_queue=2, retry_after_seconds=9) as site:
        known = await site.register(text="known", name="known")
        go = hold(site)
        waiting = [asyncio.create_task(site.register(text=f"text {i}")) for i in range(3)]
        await until(lambda: queue_of(site).active == 3)
        refused = await site.post(PROMPTS, {"text": "one too many"})
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_full"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        # Neither what is registered nor other models' prompts nor requests wait with them.
        assert (await site.register(200, text="known"))["id"] == known["id"]
        await site.register(text="text", model="plain")
        assert site.app.state.context.desks[GIST_MODEL].admission.active == 0
        go.set()
        await asyncio.gather(*waiting)
        await site.register(text="one too many")
        assert (queue_of(site).active, queue_of(site).waiting_tokens) == (0, 0)


async def test_tokens_that_wait_are_bounded(sites: Sites, hold: Any) -> None:
    async with sites.open(max_queue_tokens=150) as site:
        go = hold(site)
        first = asyncio.create_task(site.register(text="x" * 100))
        await until(lambda: queue_of(site).waiting_tokens >= 100)
        assert (await site.post(PROMPTS, {"text": "y" * 100})).status_code == 429
        second = asyncio.create_task(site.register(text="z" * 20))
        await until(lambda: queue_of(site).active == 2)
        go.set()
        await asyncio.gather(first, second)


async def test_who_waits_and_leaves_registers_nothing(site: Site, hold: Any) -> None:
    blocks = engine_of(site).stats().num_free_blocks
    go = hold(site)
    running, waiting = Caller(site, text="running"), Caller(site, text="waiting", name="n")
    await until(lambda: num_asked(site) == 2)
    waiting.leave()
    await waiting.served
    assert waiting.statuses == [499]
    assert queue_of(site).active == 1
    running.leave()
    await running.served
    go.set()
    await until(lambda: num_jobs(site) == 0)
    await until(lambda: engine_of(site).stats().num_free_blocks == blocks)
    assert await listed(site) == []
    assert len(site.store) == 0
    assert (queue_of(site).active, queue_of(site).waiting_tokens) == (0, 0)
    await site.register(text="another", name="n")  # the name is free


async def test_what_is_left_does_not_wait_behind_a_long_compression(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressions = engine_of(site)._core.compressions
    step = threading.Semaphore(0)
    advance = compressions.advance
    monkeypatch.setattr(compressions, "_chunk_size", 1)
    monkeypatch.setattr(compressions, "advance", lambda: (step.acquire(timeout=60), advance())[1])
    long, left = Caller(site, text="x" * 300), Caller(site, text="left")
    await until(lambda: num_asked(site) == 2)
    left.leave()
    await left.served
    step.release(3)  # of 300 chunks
    await until(lambda: step._value == 0)
    assert num_jobs(site) == 1
    step.release(10**6)
    await long.served
    assert long.statuses == [201]


async def test_another_client_of_the_same_prompt_gets_it(site: Site, hold: Any) -> None:
    go = hold(site)
    first, second = Caller(site, text="same"), Caller(site, text="same")
    await until(lambda: queue_of(site).active == 2)
    first.leave()
    await first.served
    go.set()
    await second.served
    assert (first.statuses, second.statuses) == ([499], [201])
    assert len(await listed(site)) == 1


async def test_what_is_being_written_is_registered_whole(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, go = threading.Event(), threading.Event()
    put = site.store.put

    def slowly(*record_and_cache: Any) -> Any:
        writing.set()
        go.wait(60)
        return put(*record_and_cache)

    monkeypatch.setattr(site.store, "put", slowly)
    caller = Caller(site, text="written", name="n")
    await until(writing.is_set)
    caller.leave()
    await asyncio.sleep(0.05)
    go.set()
    await caller.served
    (prompt_id,) = await listed(site)
    assert [record.id for record in site.store.list()] == [prompt_id]
    assert (await site.register(200, text="written"))["id"] == prompt_id
    await site.client.delete(f"{PROMPTS}/{prompt_id}")
    assert len(site.store) == 0


async def test_an_engine_that_is_cancelled_in_a_queue_computes_the_others(site: Site) -> None:
    engine = engine_of(site)
    futures: list[Future[Any]] = [engine.compress([5 + i] * 40, "prefix") for i in range(5)]
    for future in futures[1::2]:
        future.cancel()
    for i in (0, 2, 4):
        assert futures[i].result(timeout=60).manifest.prompt_tokens == 40
    await until(lambda: num_jobs(site) == 0)
