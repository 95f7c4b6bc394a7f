"""Bounds what may wait for one engine."""

from .errors import queue_full


class Admission:
    """Counts the sequences that one engine has taken over HTTP (on the event loop only).

    Args:
        limit: sequences at which further requests are refused: what the engine runs at once
            plus what may wait. A request with many choices enters whole while any place is free.
        retry_after_seconds: what a refused client is told to wait.
    """

    def __init__(self, limit: int, retry_after_seconds: int) -> None:
        self.limit = limit
        self.active = 0
        self._retry_after_seconds = retry_after_seconds

    def enter(self) -> None:
        """Raises ApiError (429) when no place is free."""
        if self.active >= self.limit:
            raise queue_full(self._retry_after_seconds)

    def add(self) -> None:
        self.active += 1

    def leave(self) -> None:
        self.active -= 1
