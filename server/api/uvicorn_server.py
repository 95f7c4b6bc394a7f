"""Runs the application under uvicorn until a signal says to stop."""

import asyncio
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from .application import begin_shutdown, end_running
from .connection_limits import LimitedProtocol

# What is left to say when everything has been ended gets so long to reach its client.
_FLUSH_SECONDS = 2.0


class ApiServer(uvicorn.Server):
    """From the first signal on answers new work with 503, while running requests finish.

    After `graceful_seconds`, or at a second signal, those that still run end with an error, and
    shortly after that every connection is cut.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, graceful_seconds: float) -> None:
        super().__init__(config)
        self._app = app
        self._graceful_seconds = graceful_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        begin_shutdown(self._app)
        if not self.should_exit:
            super().handle_exit(sig, frame)
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(self._end_running)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.get_running_loop().call_later(self._graceful_seconds, self._end_running)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    def _end_running(self) -> None:
        end_running(self._app)
        asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._cut_connections)

    def _cut_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def run_server(
    app: FastAPI,
    listener: socket.socket,
    *,
    graceful_seconds: float = 30,
) -> None:
    """Serves on a bound socket until SIGINT or SIGTERM; returns when the application has stopped.

    Requests that run get `graceful_seconds` to finish; a second signal ends them at once.
    """
    config = server_config(app, graceful_seconds=graceful_seconds)
    ApiServer(config, app, graceful_seconds).run(sockets=[listener])


def server_config(app: FastAPI, *, graceful_seconds: float = 30) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app,
        http=LimitedProtocol,
        ws="none",
        # Of the parser that has such a limit; ours shall be met first, and be the same for all.
        h11_max_incomplete_event_size=2 * LimitedProtocol.header_bytes,
        # Lines go where the process's own go; a request's line is the application's.
        log_config=None,
        access_log=False,
        # Only for what does not end when its connection is cut.
        timeout_graceful_shutdown=int(graceful_seconds + 2 * _FLUSH_SECONDS + 1),
        server_header=False,
    )
