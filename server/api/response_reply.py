"""The answer of /v1/responses."""

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .chat_tools import ChatTools
from .context import ModelDesk
from .errors import ApiError
from .generation import Generation, Piece
from .logprobs import chat_logprobs
from .prompt_entry import PromptEntry
from .response_output import Event, ResponseOutput
from .response_schemas import ResponseBody
from .streaming import EventStream, named_event, until_disconnect
from .usage import usage_of


class ResponseReply:
    """Writes one generation as a response, whole or as typed events.

    Args:
        desk: the model that answers.
        generation: of one choice; started, and closed by `send`.
        entry: the registered prompt in use, if any.
        body: what was asked, parts of which the answer repeats.
        tools: what calls to look for.
    """

    def __init__(
        self,
        desk: ModelDesk,
        generation: Generation,
        entry: PromptEntry | None,
        body: ResponseBody,
        tools: ChatTools,
    ) -> None:
        self._desk = desk
        self._generation = generation
        self._reader = tools.reader(desk)
        self._with_logprobs = body.logprobs_wanted is not None
        self._output = ResponseOutput()
        self._num_events = 0
        self._response = _begun(desk, body, entry)

    async def send(self, request: Request, body: ResponseBody) -> Response:
        """The HTTP response. The generation ends with it, or when the client goes away."""
        close = self._generation.close
        if body.stream:
            return EventStream(self._stream(), close, end=b"", write_error=self._failure)
        return JSONResponse(await until_disconnect(request, self._whole(), close))

    async def _whole(self) -> dict[str, Any]:
        async for _ in self._events():
            pass
        return self._response

    async def _stream(self) -> AsyncIterator[bytes]:
        async for told in self._events():
            yield self._written(told)

    async def _events(self) -> AsyncIterator[Event]:
        yield {"type": "response.created", "response": self._response}
        yield {"type": "response.in_progress", "response": self._response}
        async for piece in self._generation.pieces():
            for told in self._output.add(self._reader.read(piece), self._logprobs(piece)):
                yield told
        cut = self._generation.choices[0].finish_reason == "length"
        status = "incomplete" if cut else "completed"
        for told in self._output.finish(status):
            yield told
        self._response |= {
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._output.items,
            "usage": _usage(self._generation),
        }
        yield {"type": f"response.{status}", "response": self._response}

    def _written(self, told: Event) -> bytes:
        numbered = {**told, "sequence_number": self._num_events}
        self._num_events += 1
        return named_event(told["type"], numbered)

    def _failure(self, error: ApiError) -> bytes:
        detail = error.body()["error"]
        return self._written(
            {
                "type": "error",
                "code": detail["code"],
                "message": detail["message"],
                "param": detail["param"],
            }
        )

    def _logprobs(self, piece: Piece) -> list[dict[str, Any]]:
        if not self._with_logprobs:
            return []
        return list(chat_logprobs(self._desk.token_texts, [piece.logprob])["content"])


def _begun(desk: ModelDesk, body: ResponseBody, entry: PromptEntry | None) -> dict[str, Any]:
    """The response before its first token."""
    given = body.model_dump(
        include={"prompt", "text", "tool_choice", "tools"}, exclude_none=True, by_alias=True
    )
    begun: dict[str, Any] = {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": desk.model.name,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt": given.get("prompt"),
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": {"type": "text"}, **given.get("text", {})},
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": given.get("tools", []),
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }
    return begun if entry is None else begun | {"prompt_id": entry.record.id}


def _usage(generation: Generation) -> dict[str, Any]:
    usage = usage_of(generation.choices)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cache_write_tokens": 0, **usage["prompt_tokens_details"]},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
