"""What the OpenAPI document says beside the schemas."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from .answers import ErrorBody

PROTECTED = ("/v1/", "/server_info", "/tokenize", "/detokenize")
"""Beginnings of the paths that need an API key, where the server has any."""

_MEANINGS = {
    400: "A value, or the length of the prompt, cannot be honoured.",
    401: "The API key is missing or wrong.",
    404: "Unknown model or prompt.",
    409: "The name is taken by another prompt.",
    413: "The body is too large.",
    429: "The server has as much to do as it takes; `Retry-After` tells when to try again.",
    500: "The server or its model failed on this request.",
    503: "The server is shutting down, or the model's engine has stopped.",
    504: "The request took longer than the server allows.",
    507: "The key/value cache or the store has no room for the prompt.",
}


GENERATION_ERRORS = (400, 401, 404, 413, 429, 500, 503, 504)
"""What every route that computes something answers besides."""


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for these statuses."""
    return {status: {"model": ErrorBody, "description": _MEANINGS[status]} for status in statuses}


def streamed_responses() -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` of a route whose answer may come as server-sent events."""
    text = {"type": "string"}
    event = {"type": "object", "properties": {"event": text, "data": text}, "required": ["data"]}
    answer = {
        "content": {"text/event-stream": {"itemSchema": event}},
        "description": "The answer; with `stream` its parts, the JSON of each in an event's data.",
    }
    return {200: answer, **error_responses(*GENERATION_ERRORS)}


def describe(app: FastAPI, needs_key: bool) -> Callable[[], dict[str, Any]]:
    """Replaces FastAPI's OpenAPI document: no 422 (bad requests are 400), the key named."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, summary=app.summary, routes=app.routes
            )
            _drop_422(document)
            if needs_key:
                _require_key(document)
            app.openapi_schema = document
        return app.openapi_schema

    return openapi


def _drop_422(document: dict[str, Any]) -> None:
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _require_key(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {"api_key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        if path.startswith(PROTECTED):
            for operation in operations.values():
                operation["security"] = [{"api_key": []}]
