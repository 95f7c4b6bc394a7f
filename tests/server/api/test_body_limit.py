"""Request bodies are bounded together, too: what is held is what has been read and not answered."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from gistserve.server.api.body_limit import BodyLimitMiddleware
from gistserve.server.api.errors import ApiError
from hypothesis import given
from hypothesis import strategies as st

from .conftest import Site, Sites

FREE = 64 * 1024  # bytes of each body that do not count
TOTAL = 100_000
JSON = {"content-type": "application/json"}


class Answering:
    """Reads bodies; begins and ends an answer when told."""

    def __init__(self) -> None:
        self.may_begin, self.may_end = asyncio.Event(), asyncio.Event()
        self.begun = asyncio.Event()
        self.app = BodyLimitMiddleware(self._answer, 10 * TOTAL, TOTAL)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        await self.may_begin.wait()
        await send({"type": "http.response.start"})
        self.begun.set()
        await self.may_end.wait()

    async def request(self, *chunks: int, whole: bool = True) -> None:
        """Raises ApiError where the body is refused, IndexError where it is not whole."""
        left = list(chunks)

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0)
            body = b" " * left.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(left) or not whole}

        async def send(_: Any) -> None:
            pass

        await self.app({"type": "http", "headers": []}, receive, send)

    async def fits(self, num_bytes: int) -> bool:
        """Whether so many counted bytes have room now; leaves nothing behind."""
        task = asyncio.ensure_future(self.request(FREE, num_bytes))
        for _ in range(10):
            await asyncio.sleep(0)
        task.cancel()
        (error,) = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(error, ApiError):
            return True
        assert error.status_code == 429
        assert error.headers == {"Connection": "close", "Retry-After": "1"}
        return False


@pytest.mark.anyio
async def test_bytes_are_held_from_reading_to_the_begin_of_the_answer() -> None:
    answering = Answering()
    running = asyncio.ensure_future(answering.request(FREE - 1, 1 + 60_000))
    assert await answering.fits(40_000) and not await answering.fits(40_001)
    answering.may_begin.set()
    await answering.begun.wait()
    assert await answering.fits(TOTAL)
    answering.may_end.set()
    await running
    assert await answering.fits(TOTAL) and not await answering.fits(TOTAL + 1)


@pytest.mark.anyio
async def test_a_request_that_fails_or_is_cancelled_gives_its_bytes_back() -> None:
    answering = Answering()
    with pytest.raises(ApiError):
        await answering.request(FREE, 60_000, 60_000)
    with pytest.raises(IndexError):
        await answering.request(FREE, 60_000, whole=False)
    assert await answering.fits(TOTAL)


@pytest.mark.anyio
async def test_small_bodies_pass_whatever_others_hold() -> None:
    answering = Answering()
    running = [asyncio.ensure_future(answering.request(FREE + TOTAL))]
    await asyncio.sleep(0.01)
    assert not await answering.fits(1)
    running += [asyncio.ensure_future(answering.request(FREE)) for _ in range(20)]
    await asyncio.sleep(0.01)
    answering.may_begin.set()
    answering.may_end.set()
    await asyncio.gather(*running)


@given(st.lists(st.lists(st.integers(0, 2 * FREE), min_size=1, max_size=4), min_size=1, max_size=6))
def test_what_is_held_never_exceeds_the_total(bodies: list[list[int]]) -> None:
    async def run() -> None:
        answering = Answering()
        tasks = [asyncio.ensure_future(answering.request(*chunks)) for chunks in bodies]
        for _ in range(20):
            await asyncio.sleep(0)
        held = [
            max(0, sum(chunks) - FREE)
            for chunks, task in zip(bodies, tasks, strict=True)
            if not task.done()
        ]
        assert sum(held) <= TOTAL
        assert await answering.fits(TOTAL - sum(held))
        assert not await answering.fits(TOTAL - sum(held) + 1)
        answering.may_begin.set()
        answering.may_end.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(end is None or isinstance(end, ApiError) for end in done)
        assert await answering.fits(TOTAL)

    asyncio.run(run())


@pytest.mark.anyio
async def test_a_server_answers_429_until_a_large_body_is_answered(sites: Sites) -> None:
    read, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b" " * (FREE + 60_000)
        read.release()
        await go_on.wait()
        yield b"{}"

    async def ask(site: Site, content: Any) -> Any:
        return await site.client.post("/tokenize", content=content, headers=JSON)

    large = b" " * (FREE + 60_000) + b'{"prompt": "Hello"}'
    async with sites.open(max_body_bytes=2 * FREE, max_total_body_bytes=2 * FREE) as site:
        reading = [asyncio.ensure_future(ask(site, slow())) for _ in range(2)]
        for _ in reading:
            await read.acquire()
        refused = await ask(site, large)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "bodies_too_large"
        assert (await ask(site, b'{"prompt": "Hello"}')).status_code == 200
        go_on.set()
        assert {response.status_code for response in await asyncio.gather(*reading)} == {400}
        assert (await ask(site, large)).status_code == 200
