"""Runs the application under uvicorn until a signal says to stop."""

import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from .application import begin_shutdown


class ApiServer(uvicorn.Server):
    """Answers new work with 503 from the first signal on, while running requests finish."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        begin_shutdown(self._app)
        super().handle_exit(sig, frame)


def run_server(
    app: FastAPI,
    listener: socket.socket,
    *,
    log_level: str = "info",
    graceful_seconds: int = 30,
) -> None:
    """Serves on a bound socket until SIGINT or SIGTERM; returns when the application has stopped.

    Requests that run get `graceful_seconds` to finish; a second signal ends them at once.
    """
    config = uvicorn.Config(
        app,
        log_level=log_level,
        timeout_graceful_shutdown=graceful_seconds,
        server_header=False,
    )
    ApiServer(config, app).run(sockets=[listener])
