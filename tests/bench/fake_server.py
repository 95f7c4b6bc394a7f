"""A server that answers as a test tells it: which bytes, in which packets, after how long."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

Step = float | bytes | str
"""Seconds to wait; bytes of one packet; "drop" breaks the connection off."""


@dataclass
class Clock:
    """A clock for the client, which the server moves on: delays are exact, and nobody waits."""

    now: float = 100.0
    readings: int = 0

    def __call__(self) -> float:
        self.readings += 1
        return self.now

    async def read_since(self, readings: int) -> None:
        """Return when the client has looked at it again, as it does for every packet."""
        async with asyncio.timeout(30):
            while self.readings == readings:
                await asyncio.sleep(0.001)


def data(body: dict[str, Any] | str) -> bytes:
    """One event."""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return b"data: " + text.encode() + b"\n\n"


def text(words: str, finish: str | None = None) -> bytes:
    """One event of a text completion."""
    return data({"choices": [{"index": 0, "text": words, "finish_reason": finish}]})


def usage(prompt: int, output: int, cached: int = 0) -> bytes:
    details = {"cached_tokens": cached}
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "prompt_tokens_details": details,
    }
    return data({"choices": [], "usage": counts})


DONE = data("[DONE]")


@dataclass
class FakeServer:
    """`answer(path, body)` gives status and steps; JSON of other paths is in `documents`.

    With a clock, seconds pass on it alone. Without `keep_alive` it promises to keep connections,
    but drops each on its second request.
    """

    answer: Callable[[str, dict[str, Any]], tuple[int, Sequence[Step]]]
    clock: Clock | None = None
    keep_alive: bool = True
    url: str = ""
    documents: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._serve_one(reader, writer):
                if not self.keep_alive:
                    await reader.readuntil(b"\r\n\r\n")
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        lengths = [line for line in head.lower().split("\r\n") if line.startswith("content-length")]
        length = int(lengths[0].split(":")[1]) if lengths else 0
        body = json.loads(await reader.readexactly(length)) if length else None
        self.requests.append((method, path, body))
        self.heads.append(head)
        if path not in ("/v1/completions", "/v1/chat/completions"):
            document = self.documents.get(f"{method} {path}")
            if callable(document):
                document = document(body)
            self._write_whole(writer, method, document)
            return True
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._stream(writer, *self.answer(path, body))
        finally:
            self.in_flight -= 1

    def _write_whole(self, writer: asyncio.StreamWriter, method: str, document: Any) -> None:
        status = 404 if document is None else 201 if method == "POST" else 200
        content = document if isinstance(document, str) else json.dumps(document)
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content.encode())}\r\n\r\n"
        writer.write(head.encode() + content.encode())

    async def _stream(
        self, writer: asyncio.StreamWriter, status: int, steps: Sequence[Step]
    ) -> bool:
        writer.write(f"HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for step in steps:
            if isinstance(step, float):
                await self._wait(step)
            elif isinstance(step, bytes):
                readings = self.clock.readings if self.clock else 0
                writer.write(b"%x\r\n%s\r\n" % (len(step), step))
                await writer.drain()
                if self.clock:
                    await self.clock.read_since(readings)
            else:
                writer.transport.abort()
                return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _wait(self, seconds: float) -> None:
        if self.clock:
            self.clock.now += seconds
        else:
            await asyncio.sleep(seconds)


StartServer = Callable[..., FakeServer]


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts fake servers, on a thread of their own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def start(
        answer: Callable[..., tuple[int, Sequence[Step]]], clock: Clock | None = None
    ) -> FakeServer:
        fake = FakeServer(answer, clock)

        async def listen() -> asyncio.Server:
            return await asyncio.start_server(fake.serve, "127.0.0.1", 0)

        server = asyncio.run_coroutine_threadsafe(listen(), loop).result()
        fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return fake

    yield start

    async def stop() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
