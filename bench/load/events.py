"""Server-sent events out of a stream of bytes."""

from __future__ import annotations


class EventDecoder:
    """Splits bytes, however they were cut into packets, into the data of events.

    Lines end in LF or CRLF; comments, event names and ids are passed over. (WHATWG HTML, section
    "Server-sent events".)
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, packet: bytes) -> list[bytes]:
        """The data of every event that this packet completes, in order."""
        *lines, self._rest = (self._rest + packet).split(b"\n")
        events = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events
