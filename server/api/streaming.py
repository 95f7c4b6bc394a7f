"""Server-sent events, and requests that end when their client goes away."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import anyio
import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .arrival import Arrival, arrival_of
from .errors import ApiError, unexpected

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
T = TypeVar("T")

_encode = msgspec.json.Encoder().encode


def event(data: dict[str, Any]) -> bytes:
    """One SSE event with a JSON body."""
    return b"data: " + _encode(data) + b"\n\n"


class EventTemplate:
    """Events whose bodies begin and end with the same keys.

    Args:
        head: the first keys; not empty.
        key: the one key that differs.
        tail: the last keys.
    """

    def __init__(self, head: dict[str, Any], key: str, tail: dict[str, Any]) -> None:
        self._before = b"data: " + _encode(head)[:-1] + b"," + _encode(key) + b":"
        self._after = (b"," + _encode(tail)[1:] if tail else b"}") + b"\n\n"

    def event(self, value: Any) -> bytes:
        """The event with this value of the key that differs."""
        return self._before + _encode(value) + self._after


def named_event(name: str, data: dict[str, Any]) -> bytes:
    """One SSE event of a type."""
    return b"event: " + name.encode() + b"\n" + event(data)


class EventStream(Response):
    """Streams events until they end or the client goes away.

    An ApiError raised by `events` becomes a last event, by default in OpenAI's error shape; `end`
    follows. `on_close` runs in every case, even if nothing was ever sent.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        on_close: Callable[[], None],
        *,
        end: bytes = DONE,
        write_error: Callable[[ApiError], bytes] | None = None,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._on_close = on_close
        self._end = end
        self._write_error = write_error or _plain_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = arrival_of(HTTPConnection(scope))
        try:
            async with anyio.create_task_group() as group:
                # In a task of its own, so that no token wakes all layers of the application.
                group.start_soon(self._send_all, send, arrival, group.cancel_scope)
                await disconnected(receive)
                group.cancel_scope.cancel()
        finally:
            self._on_close()

    async def _send_all(self, send: Send, arrival: Arrival, watch: anyio.CancelScope) -> None:
        """Sends the whole answer, then ends the watch for the client's going away."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async for body in self._events:
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                last = self._end
            except ApiError as error:
                last = self._last(error, arrival) + self._end
            except OSError:
                raise
            except Exception:
                logger.exception("stream failed")
                last = self._last(unexpected(), arrival) + self._end
            await send({"type": "http.response.body", "body": last, "more_body": False})
        except OSError:
            logger.debug("the client has gone")
        watch.cancel()

    def _last(self, error: ApiError, arrival: Arrival) -> bytes:
        arrival.error = error.code
        return self._write_error(error)


def _plain_error(error: ApiError) -> bytes:
    return event(error.body())


async def until_disconnect(
    request: Request, work: Coroutine[Any, Any, T], on_close: Callable[[], None]
) -> T:
    """Awaits `work`, but cancels it when the client goes away; `on_close` runs in every case.

    Raises:
        ApiError: 499 if the client went away (nobody is left to read it).
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(disconnected(request.receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "The client closed the request.")
        return task.result()
    finally:
        for future in (task, watcher):
            future.cancel()
        on_close()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    """Returns when the client has gone away; what it sends until then is lost."""
    while (await receive())["type"] != "http.disconnect":
        pass
