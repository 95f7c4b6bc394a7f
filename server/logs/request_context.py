"""The request that a task works for, so that every line it logs carries the request's id."""

from contextvars import ContextVar

_current: ContextVar[str | None] = ContextVar("gistserve_request_id", default=None)


def enter_request(request_id: str) -> None:
    """From now on this task, and what it starts, works for the request."""
    _current.set(request_id)


def current_request() -> str | None:
    """The id of the request that this task works for; None outside of any."""
    return _current.get()
