"""Reads the JSON of request bodies strictly, and in bounded depth."""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from .errors import ApiError

# How a number that no float holds is written; the reader makes it infinite.
_OVERFLOW = re.compile(rb"[eE]\+?[0-9]{3}|[0-9]{300}")

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class JsonRequest(Request):
    """A request whose JSON may nest 200 levels, and hold neither numbers that are not finite nor
    lone surrogates. (Python's own reader takes those, and any depth that its stack does, so that
    whatever reads or writes the value later must expect them.)"""

    async def json(self) -> Any:
        """Raises ApiError (400) for anything else."""
        body = await self.body()
        try:
            value = from_json(body, allow_inf_nan=False)
            if _OVERFLOW.search(body):
                json.dumps(value, allow_nan=False)
            return value
        except ValueError as error:
            reason = str(error).replace("recursion limit exceeded", "nested too deeply")
            raise ApiError(
                400, f"The request body is not valid JSON: {reason}.", code="invalid_json"
            ) from error


class JsonRoute(APIRoute):
    """A route that takes a `JsonRequest`."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_json
