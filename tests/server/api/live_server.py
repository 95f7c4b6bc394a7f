"""The application behind a real socket, under the server that `gistserve serve` runs."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from gistserve.server.api.uvicorn_server import ApiServer, server_config


@dataclass
class LiveServer:
    """A server in a thread of its own."""

    server: ApiServer
    thread: threading.Thread
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def signal(self, number: int = signal.SIGTERM) -> None:
        """What the process's signal handler does."""
        self.server.handle_exit(number, None)

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """A raw connection."""
        client = socket.socket()
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(60)
        client.connect(("127.0.0.1", self.port))
        return client

    def ended(self, seconds: float = 60.0) -> bool:
        self.thread.join(seconds)
        return not self.thread.is_alive()


@contextlib.contextmanager
def live(
    app: FastAPI, graceful_seconds: float = 60.0, *, lifespan: bool = False, **limits: Any
) -> Iterator[LiveServer]:
    """Serves an application whose lifespan another has begun, or with one of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = server_config(app, graceful_seconds=graceful_seconds, **limits)
    config.lifespan = "on" if lifespan else "off"
    server = ApiServer(config, app, graceful_seconds)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield LiveServer(server, thread, listener.getsockname()[1])
    finally:
        for _ in range(2):
            if thread.is_alive():
                server.handle_exit(signal.SIGTERM, None)
        thread.join(60)


def read_all(client: socket.socket) -> bytes:
    """Everything until the server closes; a cut connection ends it too."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)
