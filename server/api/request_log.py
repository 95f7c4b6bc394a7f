"""One log line a request, and an id by which all lines about it are found."""

import logging
import time
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..logs import enter_request
from .arrival import ID_HEADER, Arrival
from .authentication import request_owner
from .errors import respond, unexpected

logger = logging.getLogger(__name__)

# Asked every few seconds by machines; their lines would bury the others.
_PROBES = ("/health", "/metrics")
_MAX_PATH = 200
_OWNER_DIGITS = 8


class RequestLogMiddleware:
    """Gives each request its id, answers with it, and logs how the request ended.

    The outermost layer, so that it sees what all others answer. An error that none of them
    expected is logged and answered here. Neither bodies nor keys are logged: a key's owner is
    told by the first digits of a hash.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        arrival = Arrival.note(scope)
        enter_request(arrival.request_id)
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[ID_HEADER] = arrival.request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            logger.exception("the server had an error on a request")
            if status is not None:
                raise  # too late for another answer: the connection is cut
            await respond(unexpected())(scope, receive, send_with_id)
        finally:
            _log(scope, arrival, status)


def _log(scope: Scope, arrival: Arrival, status: int | None) -> None:
    level = logging.DEBUG if scope["path"] in _PROBES else logging.INFO
    stream_failed = status == 200 and arrival.error is not None
    if status is None or status >= 500 or stream_failed:
        level = logging.WARNING
    if logger.isEnabledFor(level):
        logger.log(level, "request", extra={"fields": _fields(scope, arrival, status)})


def _fields(scope: Scope, arrival: Arrival, status: int | None) -> dict[str, Any]:
    """What a line says beside the request's id; durations in milliseconds."""
    fields = {
        "method": scope["method"],
        "path": scope["path"][:_MAX_PATH],
        "status": status,
        "error": arrival.error,
        "key": request_owner(HTTPConnection(scope))[:_OWNER_DIGITS] or None,
    }
    meter = arrival.meter
    if meter is not None:
        fields |= {
            "model": meter.model_name,
            "prompt_tokens": meter.prompt_tokens,
            "cached_tokens": meter.cached_tokens,
            "gist_tokens": meter.gist_tokens,
            "completion_tokens": meter.completion_tokens,
            "finish_reason": ",".join(meter.finish_reasons) or None,
            "ttft_ms": _milliseconds(arrival, meter.first_token_at),
        }
    fields["e2e_ms"] = _milliseconds(arrival, time.perf_counter())
    return fields


def _milliseconds(arrival: Arrival, end: float | None) -> float | None:
    return None if end is None else round((end - arrival.time) * 1000, 2)
