"""The first signal lets requests finish, a time limit or a second signal ends them in good form."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from .conftest import GIST_MODEL, LONG_CHAT, Loaded, Site, Sites, until
from .live_server import LiveServer, live, read_all

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


@pytest.fixture
async def site(sites: Sites, gist_loaded: Loaded) -> AsyncIterator[Site]:
    async with sites.open() as opened:
        yield opened


def engine_of(site: Site) -> Any:
    return site.app.state.context.models.get(GIST_MODEL).engine


@pytest.fixture
def slow_steps(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """480 tokens take far longer than any of these tests."""
    runner = engine_of(site)._core.runner
    execute = runner.execute
    monkeypatch.setattr(runner, "execute", lambda step: (time.sleep(0.2), execute(step))[1])


async def running(site: Site, count: int) -> None:
    await until(lambda: engine_of(site).stats().num_running == count)


async def post(server: LiveServer, **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient(timeout=120) as client:
        return await client.post(server.url + CHAT, json=LONG_CHAT | fields)


def events(response: httpx.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]


async def test_a_signal_lets_streams_finish(site: Site) -> None:
    with live(site.app) as server:
        streams = [asyncio.create_task(post(server, stream=True, max_tokens=64)) for _ in range(3)]
        await running(site, 3)
        server.signal()
        for response in await asyncio.gather(*streams):
            told = events(response)
            assert told[-1] == "[DONE]"
            assert json.loads(told[-2])["choices"][0]["finish_reason"] == "length"
        assert await asyncio.to_thread(server.ended)


@pytest.mark.usefixtures("slow_steps")
@pytest.mark.parametrize("second_signal", [False, True])
async def test_what_does_not_finish_ends_with_an_error(site: Site, second_signal: bool) -> None:
    with live(site.app, graceful_seconds=300 if second_signal else 0.5) as server:
        stream = asyncio.create_task(post(server, stream=True))
        whole = asyncio.create_task(post(server))
        responses = asyncio.create_task(asyncio.to_thread(raw_stream, server))
        await running(site, 3)
        server.signal()
        if second_signal:
            server.signal()
        told = events(await stream)
        assert told[-1] == "[DONE]"
        assert json.loads(told[-2])["error"]["code"] == "shutting_down"
        answer = await whole
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "shutting_down"
        assert b'"code":"shutting_down"' in await responses
        assert await asyncio.to_thread(server.ended)
    await running(site, 0)
    assert site.app.state.context.desks[GIST_MODEL].admission.active == 0


def raw_stream(server: LiveServer) -> bytes:
    """A stream of /v1/responses, read to the end of the connection."""
    body = json.dumps({"input": "Hello", "max_output_tokens": 480, "stream": True}).encode()
    with server.connect() as client:
        client.sendall(
            b"POST /v1/responses HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        return read_all(client)


async def test_a_registration_that_does_not_finish_is_refused_and_leaves_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(site)
    free = engine.stats().num_free_blocks
    compressions = engine._core.compressions
    advance = compressions.advance
    monkeypatch.setattr(compressions, "_chunk_size", 1)
    monkeypatch.setattr(compressions, "advance", lambda: (time.sleep(0.05), advance())[1])
    with live(site.app, graceful_seconds=0.2) as server:
        async with httpx.AsyncClient(timeout=120) as client:
            registering = asyncio.create_task(
                client.post(f"{server.url}/v1/prompts", json={"text": "x" * 400})
            )
            await until(lambda: engine.stats().num_free_blocks < free)
            server.signal()
            answer = await registering
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "shutting_down"
        assert await asyncio.to_thread(server.ended)
    await until(lambda: engine.stats().num_free_blocks == free)
    assert len(site.store) == 0
