"""Requests that come at once begin one after the other, with the event loop's turns between."""

import asyncio
from collections.abc import Awaitable
from itertools import pairwise
from typing import Any

import pytest
from gistserve.server.api.pacing import PacingMiddleware

from .conftest import Site

pytestmark = pytest.mark.anyio


class Begun:
    """An application that notes what begins; "-" stands for a turn of the event loop."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.app = PacingMiddleware(self._note, unpaced=("/health",))

    async def _note(self, scope: dict[str, Any], *_: Any) -> None:
        self.events.append(scope["path"])

    def request(self, path: str) -> Awaitable[None]:
        return self.app({"type": "http", "path": path}, None, None)

    async def run(self, *requests: Awaitable[None]) -> list[str]:
        tasks = asyncio.gather(*requests, return_exceptions=True)
        while not tasks.done():
            await asyncio.sleep(0)
            self.events.append("-")
        return self.events


async def test_one_request_begins_in_a_turn_of_the_loop() -> None:
    begun = Begun()
    events = await begun.run(*[begun.request(f"/{i}") for i in range(20)])
    begins = [i for i, event in enumerate(events) if event != "-"]
    assert [events[i] for i in begins] == [f"/{i}" for i in range(20)]
    assert all(later - earlier > 1 for earlier, later in pairwise(begins))


async def test_a_request_alone_begins_at_once() -> None:
    begun = Begun()
    for path in ("/a", "/b"):
        assert (await begun.run(begun.request(path)))[0] == path
        await begun.run(asyncio.sleep(0.001))
        begun.events.clear()


async def test_a_probe_does_not_wait_for_requests_before_it() -> None:
    begun = Begun()
    requests = [begun.request(f"/{i}") for i in range(20)]
    events = await begun.run(*requests, begun.request("/health"))
    assert events[:2] == ["/0", "/health"]


async def test_a_request_that_is_cancelled_lets_the_next_begin() -> None:
    begun = Begun()
    tasks = [asyncio.ensure_future(begun.request(f"/{i}")) for i in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    events = await begun.run(*tasks)
    assert [event for event in events if event != "-"] == ["/0", "/3"]


async def test_the_server_paces_requests_and_answers_health_between_them(site: Site) -> None:
    answered = []

    async def get(path: str) -> None:
        assert (await site.client.get(path)).status_code == 200
        answered.append(path)

    await asyncio.gather(*[get("/v1/models") for _ in range(8)], get("/health"))
    assert answered.index("/health") < 2
