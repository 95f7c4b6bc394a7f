"""When a request arrived, before its body was read."""

import time

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send


class ArrivalMiddleware:
    """Notes the time at which each request reaches the application."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            HTTPConnection(scope).state.arrived = time.perf_counter()
        await self.app(scope, receive, send)


def arrival_of(connection: HTTPConnection) -> float:
    """`time.perf_counter()` at the request's arrival."""
    return float(connection.state.arrived)
