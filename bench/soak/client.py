"""Requests to the server under test, and what became of them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from ..load.events import EventDecoder

CHAT = "/v1/chat/completions"
_TIMEOUT = aiohttp.ClientTimeout(total=300)


@dataclass
class Reply:
    """What came back.

    status: HTTP status; 0 where the connection failed before there was one.
    text: of a whole answer, else None. error: OpenAI's error code, or what broke.
    cut: an answer had begun and broke off without its end.
    """

    status: int
    text: str | None = None
    error: str | None = None
    retry_after: str | None = None
    cut: bool = False


class SoakClient:
    """Calls one server at a time.

    Args:
        session: closed by the caller.
        url: of the server that answers at present.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def chat(self, body: dict[str, Any], leave_after: int | None = None) -> Reply:
        """One answer; `leave_after` leaves a stream after so many events."""
        try:
            async with self._session.post(self.url + CHAT, json=body, timeout=_TIMEOUT) as response:
                return await self._read(response, bool(body["stream"]), leave_after)
        except (aiohttp.ClientError, TimeoutError) as error:
            return Reply(0, error=type(error).__name__)

    async def call(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Status and decoded JSON of any other call; (0, {}) where the connection failed."""
        try:
            async with self._session.request(
                method, self.url + path, json=body, timeout=_TIMEOUT
            ) as response:
                return response.status, await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return 0, {}

    async def _read(
        self, response: aiohttp.ClientResponse, stream: bool, leave_after: int | None
    ) -> Reply:
        retry_after = response.headers.get("Retry-After")
        try:
            if response.status == 200 and stream:
                return await _read_stream(response, leave_after)
            answer = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return Reply(response.status, error=type(error).__name__, cut=True)
        if response.status != 200:
            return Reply(response.status, error=answer["error"]["code"], retry_after=retry_after)
        return Reply(200, answer["choices"][0]["message"]["content"])


async def _read_stream(response: aiohttp.ClientResponse, leave_after: int | None) -> Reply:
    decoder, events = EventDecoder(), 0
    parts: list[str] = []
    finished, error = False, None
    async for packet in response.content.iter_any():
        for data in decoder.feed(packet):
            if data == b"[DONE]":
                whole = "".join(parts) if finished else None
                return Reply(200, whole, error, cut=not finished and error is None)
            chunk = json.loads(data)
            if "error" in chunk:
                error = chunk["error"]["code"]
                continue
            choice = chunk["choices"][0]
            parts.append(choice["delta"].get("content") or "")
            finished |= choice["finish_reason"] is not None
            events += 1
            if leave_after is not None and events >= leave_after:
                response.close()
                return Reply(200, error="left")
    return Reply(200, error=error, cut=True)


async def leave_early(client: SoakClient, body: dict[str, Any], seconds: float) -> Reply:
    """An answer that is waited for only so long."""
    try:
        async with asyncio.timeout(seconds):
            return await client.chat(body)
    except TimeoutError:
        return Reply(0, error="left")
