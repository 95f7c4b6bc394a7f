"""What one connection may cost: headers without end, requests that trickle, readers that stall."""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from .errors import ApiError

_PHRASES = {408: "Request Timeout", 431: "Request Header Fields Too Large"}


class ConnectionLimits(asyncio.Protocol):
    """Mixed into one of uvicorn's HTTP/1.1 protocols, before it.

    uvicorn itself has a time limit for idle connections only, and none of its parsers but h11
    bounds the headers. (It stops reading a body, and an answer's writer waits, at 64 KiB.)
    """

    header_bytes = 64 * 1024
    """Of one request, up to what was read at once beyond them; more gets 431."""
    receive_seconds = 60.0
    """For a request to arrive, headers and body; then it gets 408."""
    write_seconds = 30.0
    """For a client to take what waits to be sent; then its connection is cut."""

    cycle: Any
    """uvicorn's request and answer, from the end of the headers on."""
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._loop = asyncio.get_running_loop()
        self._unread_head_bytes = 0
        self._last_cycle: Any = None
        self._receiving: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._watch_receiving()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._receiving, self._writing):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.cycle is not self._last_cycle:
            self._last_cycle = self.cycle
            self._unread_head_bytes = 0
        in_head = self.cycle is None or not self.cycle.more_body
        super().data_received(data)
        if in_head and self.cycle is self._last_cycle:
            self._unread_head_bytes += len(data)
            if self._unread_head_bytes > self.header_bytes:
                self._refuse(
                    ApiError(431, f"The headers are larger than {self.header_bytes} bytes.")
                )
        self._watch_receiving()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self._loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()

    def _watch_receiving(self) -> None:
        if not self._is_receiving():
            if self._receiving is not None:
                self._receiving.cancel()
                self._receiving = None
        elif self._receiving is None:
            self._receiving = self._loop.call_later(self.receive_seconds, self._refuse_slow)

    def _is_receiving(self) -> bool:
        """Whether a request is expected or has begun to arrive, and has not arrived."""
        cycle = self.cycle
        if cycle is None or cycle.more_body:
            return True
        return bool(cycle.response_complete and cycle is self._last_cycle)

    def _refuse_slow(self) -> None:
        message = f"The request did not arrive within {self.receive_seconds:g} seconds."
        self._refuse(ApiError(408, message, code="request_too_slow"))

    def _refuse(self, error: ApiError) -> None:
        """Says why, unless an answer has begun, and closes the connection."""
        cycle = self.cycle
        if not self.transport.is_closing() and (
            cycle is None or cycle.response_complete or not cycle.response_started
        ):
            body = json.dumps(error.body()).encode()
            head = (
                f"HTTP/1.1 {error.status_code} {_PHRASES[error.status_code]}\r\n"
                "Content-Type: application/json\r\nConnection: close\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()


class LimitedProtocol(ConnectionLimits, AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """The installed parser, within the limits."""
