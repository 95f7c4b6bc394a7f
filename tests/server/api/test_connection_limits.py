"""Raw connections that misbehave, under both of uvicorn's parsers."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from gistserve.server.api.connection_limits import ConnectionLimits, LimitedProtocol
from uvicorn.protocols.http.h11_impl import H11Protocol

from .live_server import read_all

BASES = {"h11": H11Protocol}
try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    BASES["httptools"] = HttpToolsProtocol
except ImportError:
    pass


class Application:
    """Echoes the length of a body; /endless writes until its client is gone."""

    def __init__(self) -> None:
        self.written = 0
        self.gone = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/endless":
            return await self._endless(receive, send)
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.set()
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        await answer(send, str(size).encode())

    async def _endless(self, receive: Any, send: Any) -> None:
        await receive()
        leaving = asyncio.create_task(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not leaving.done():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            self.written += 65536
            await asyncio.sleep(0)
        self.gone.set()


async def answer(send: Any, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Live:
    def __init__(self, base: type[asyncio.Protocol], **limits: Any) -> None:
        self.application = Application()
        protocol = type("Limited", (ConnectionLimits, base), limits)
        config = uvicorn.Config(
            self.application,
            http=protocol,
            lifespan="off",
            log_level="critical",
            h11_max_incomplete_event_size=1024 * 1024,
        )
        self.server = uvicorn.Server(config)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],))
        self.port = self.listener.getsockname()[1]

    def connect(self) -> socket.socket:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(("127.0.0.1", self.port))
        return client


@pytest.fixture(params=BASES)
def live(request: pytest.FixtureRequest) -> Iterator[Any]:
    started: list[Live] = []

    def start(**limits: Any) -> Live:
        server = Live(BASES[request.param], **limits)
        server.thread.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.server.should_exit = True
        server.thread.join(60)


def refusal(answer: bytes, status: int) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def test_headers_without_end_are_refused(live: Any) -> None:
    server = live(header_bytes=10_000)
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
        sent = 0
        try:
            while sent < 10_000_000:
                client.sendall(b"X-Padding: " + b"x" * 1000 + b"\r\n")
                sent += 1000
                time.sleep(0.001)
        except ConnectionError:
            pass
        assert sent < 1_000_000
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000)
        refusal(read_all(client), 431)


def test_large_headers_within_the_limit_and_large_bodies_are_taken(live: Any) -> None:
    server = live(header_bytes=10_000)
    with server.connect() as client:
        for size in (0, 300_000):
            client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9_000)
            time.sleep(0.05)
            client.sendall(f"\r\nContent-Length: {size}\r\n\r\n".encode() + b"y" * size)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc",
        # The second request of a connection.
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na",
    ],
)
def test_a_request_that_does_not_arrive_is_cut(live: Any, sent: bytes) -> None:
    server = live(receive_seconds=0.4)
    with server.connect() as client:
        client.sendall(sent)
        if sent.endswith(b"\r\n\r\na"):
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
            client.sendall(b"GET / HTTP/1.1\r\nHos")
        began = time.monotonic()
        refusal(read_all(client), 408)
        assert time.monotonic() - began < 20


def test_trickling_does_not_prolong_a_request(live: Any) -> None:
    server = live(receive_seconds=0.5)
    with server.connect() as client, pytest.raises(ConnectionError):
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(100):
            client.sendall(b"x")
            time.sleep(0.05)
    assert server.application.gone.wait(20)


def test_a_client_that_does_not_read_is_cut_and_little_is_kept_for_it(live: Any) -> None:
    server = live(write_seconds=0.5)
    with server.connect() as client:
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        assert server.application.gone.wait(30)
    assert server.application.written < 30_000_000  # what the kernel takes, and 64 KiB


def test_a_slow_request_does_not_end_while_its_answer_takes_long(live: Any) -> None:
    server = live(receive_seconds=0.3)
    with server.connect() as client:
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            assert client.recv(65536)


def test_the_server_uses_the_limits() -> None:
    from fastapi import FastAPI
    from gistserve.server.api.uvicorn_server import server_config

    assert server_config(FastAPI()).http is LimitedProtocol
    assert issubclass(LimitedProtocol, ConnectionLimits)
