"""Keeps a burst of requests from holding the event loop."""

import asyncio
from collections import deque

from starlette.types import ASGIApp, Receive, Scope, Send


class PacingMiddleware:
    """Lets one request begin in each turn of the event loop, in the order of their arrival.

    To take a request is a millisecond or two of Python, and requests come together: where a
    batch's answers end with the same step, its clients ask again at the same moment. Between two
    of them the loop now sends tokens and answers probes.

    Args:
        unpaced: paths whose requests never wait.
    """

    def __init__(self, app: ASGIApp, unpaced: tuple[str, ...]) -> None:
        self.app = app
        self.unpaced = unpaced
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turn_taken = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self.unpaced:
            await self._turn()
        await self.app(scope, receive, send)

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        if self._turn_taken:
            waiter = loop.create_future()
            self._waiting.append(waiter)
            await waiter
        else:
            self._turn_taken = True
            loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        while self._waiting and self._waiting[0].done():  # cancelled
            self._waiting.popleft()
        self._turn_taken = bool(self._waiting)
        if self._waiting:
            self._waiting.popleft().set_result(None)
            asyncio.get_running_loop().call_soon(self._next_turn)
