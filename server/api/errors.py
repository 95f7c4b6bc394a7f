"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from ..engine.errors import CacheFullError, EngineDeadError, EngineError, PromptTooLongError
from ..engine.request import SamplingParamsError
from .arrival import arrival_of

logger = logging.getLogger(__name__)

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# Pydantic puts the branch it tried ("str", "list[int]", ...) behind the field's name.
_MAX_PARAM_PARTS = 8


class ApiError(HTTPException):
    """An error meant for the client.

    status: HTTP status; param: the request field at fault; code: OpenAI's machine-readable word.
    (FastAPI lets only its own HTTPException pass unchanged while it reads a body.)
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.message = message
        self.param = param
        self.code = code

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, Any]:
        return error_body(self.status_code, self.message, self.param, self.code)


def bad_value(param: str, message: str, code: str | None = None) -> ApiError:
    """400 for a field whose value cannot be honoured."""
    return ApiError(400, message, param=param, code=code)


def model_not_found(name: str) -> ApiError:
    return ApiError(
        404, f"The model `{name}` does not exist.", param="model", code="model_not_found"
    )


def prompt_not_found(prompt_id: str) -> ApiError:
    return ApiError(
        404,
        f"The prompt `{prompt_id}` does not exist.",
        param="prompt_id",
        code="prompt_not_found",
    )


def context_length_exceeded(limit: int, explanation: str, param: str | None) -> ApiError:
    return ApiError(
        400,
        f"This model's maximum context length is {limit} tokens. {explanation}",
        param=param,
        code="context_length_exceeded",
    )


def _too_long(limit: int, message: str) -> ApiError:
    beginning = f"This model's maximum context length is {limit} tokens. "
    return context_length_exceeded(limit, message.removeprefix(beginning), None)


def queue_full(retry_after_seconds: int) -> ApiError:
    return ApiError(
        429,
        "The server's queue is full. Try again later.",
        code="queue_full",
        headers={"Retry-After": str(retry_after_seconds)},
    )


def queue_timeout(retry_after_seconds: int) -> ApiError:
    return ApiError(
        429,
        "The request waited too long for its turn. Try again later.",
        code="queue_timeout",
        headers={"Retry-After": str(retry_after_seconds)},
    )


def request_timeout() -> ApiError:
    return ApiError(
        504,
        "The request took longer than the server allows. Ask for fewer tokens.",
        code="request_timeout",
    )


def client_too_slow() -> ApiError:
    return ApiError(408, "The stream was not read fast enough.", code="client_too_slow")


def shutting_down() -> ApiError:
    return ApiError(503, "The server is shutting down.", code="shutting_down")


def unexpected() -> ApiError:
    return ApiError(500, "The server had an error on this request.", code="internal_error")


def prompt_unavailable(reason: str) -> ApiError:
    """503 for a prompt whose cache can only not be had now."""
    return ApiError(
        503,
        f"The prompt is not available just now: {reason[0].lower()}{reason[1:]}",
        code="prompt_unavailable",
        headers={"Retry-After": "1"},
    )


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The JSON body of an error answer of this HTTP status."""
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def from_engine(error: Exception, max_model_len: int) -> ApiError:
    """Translates what an engine raises when it takes a request or makes a cache."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, SamplingParamsError):
        return bad_value(error.param, str(error))
    if isinstance(error, PromptTooLongError):
        return _too_long(max_model_len, str(error))
    if isinstance(error, CacheFullError):
        return ApiError(507, str(error), code="kv_cache_full")
    if isinstance(error, EngineDeadError):
        return ApiError(503, "The model's engine is not running.", code="engine_unavailable")
    if isinstance(error, ValueError) and not isinstance(error, EngineError):
        return ApiError(400, str(error))
    logger.error("engine failed", exc_info=error)
    return ApiError(500, "The model's engine failed on this request.", code="engine_error")


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Maps every error that can leave a route, and wrong methods, to OpenAI's shape."""
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(StarletteHTTPException, _on_http_exception)
    app.add_exception_handler(405, _on_method_not_allowed(routes))


class ErrorResponse(JSONResponse):
    """An error as an answer; the request's log line gets its code."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(_speakable(error.body()), error.status_code, headers=error.headers)
        self._code = error.code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival_of(HTTPConnection(scope)).error = self._code
        await super().__call__(scope, receive, send)


def respond(error: ApiError) -> ErrorResponse:
    return ErrorResponse(error)


async def _on_api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return respond(error)


async def _on_validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return respond(validation_error(error.errors()))


async def _on_http_exception(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    message = "Not found." if error.status_code == 404 else str(error.detail)
    return JSONResponse(
        error_body(error.status_code, message), error.status_code, headers=error.headers
    )


def _on_method_not_allowed(
    routes: Sequence[BaseRoute],
) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    """Answers 405 with the methods of every route of the path; Starlette names the first one's."""

    async def answer(request: Request, _: Exception) -> JSONResponse:
        methods = {
            method
            for route in routes
            if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
            for method in route.methods or ()
        }
        headers = {"Allow": ", ".join(sorted(methods))}
        return JSONResponse(error_body(405, "Method not allowed."), 405, headers=headers)

    return answer


def validation_error(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """400 for a body, query or path that does not fit its schema."""
    first = errors[0]
    location = [part for part in first["loc"] if part not in ("body", "query", "path")]
    if first["type"] == "json_invalid":
        reason = (first.get("ctx") or {}).get("error", "not JSON")
        return ApiError(
            400,
            f"The request body is not valid JSON: {reason} at character {location[-1]}.",
            code="invalid_json",
        )
    if not location:
        return ApiError(
            400,
            "The request body must be a JSON object, sent with Content-Type: application/json.",
            code="invalid_json",
        )
    param = _param_name(location)
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    reasons = list(dict.fromkeys(_reason(e) for e in errors if _top(e) == _top(first)))
    return bad_value(param, f"Invalid value for '{param}': {'; or '.join(reasons[:4])}.", code)


def _top(error: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(error["loc"][:2])


def _reason(error: Mapping[str, Any]) -> str:
    return str(error["msg"]).removeprefix("Value error, ").rstrip(".")


def _param_name(location: Sequence[Any]) -> str:
    """messages.0.content for ("messages", 0, "content", "str")."""
    parts: list[str] = []
    for part in location[:_MAX_PARAM_PARTS]:
        text = str(part)
        if parts and (
            not text.replace("_", "").isalnum() or text in _BRANCHES or text[0].isupper()
        ):
            break
        parts.append(text)
    return ".".join(parts)


_FIELD = re.compile(r"[a-z0-9_]+")
_BRANCHES = {"str", "int", "float", "bool", "list", "dict", "none", "key"}


def _speakable(body: dict[str, Any]) -> dict[str, Any]:
    """Replaces lone surrogates, which a client may send but UTF-8 cannot say."""
    message = body["error"]["message"].encode("utf-8", "replace").decode("utf-8")
    param = body["error"]["param"]
    if param is not None:
        param = param.encode("utf-8", "replace").decode("utf-8")
    return {"error": {**body["error"], "message": message, "param": param}}
