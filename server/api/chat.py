"""POST /v1/chat/completions."""

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from .context import ApiContext, ModelDesk, api_context, owner
from .errors import bad_value
from .generation import Generation, Piece, PreparedPrompt, check_fits
from .logprobs import chat_logprobs
from .openapi import error_responses
from .prompt_entry import PromptEntry
from .responses import ChatCompletion
from .schemas import ChatBody, plain_message
from .streaming import EventStream, event, until_disconnect
from .usage import usage_of

router = APIRouter(tags=["chat"])


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses=error_responses(400, 401, 404, 429, 503),
)
async def create_chat_completion(
    body: ChatBody,
    request: Request,
    context: Annotated[ApiContext, Depends(api_context)],
    owner: Annotated[str, Depends(owner)],
) -> Response:
    """Answers a conversation, if asked through the cache of a registered prompt."""
    context.check_open()
    _refuse_unsupported(body)
    desk, entry = context.choose(owner, body.model, _prompt_id(body))
    entry, prompt = await _prepare(context, desk, entry, body, owner)
    check_fits(desk.model, prompt, body.token_limit, "messages")
    sampling = body.engine_sampling(body.token_limit, body.logprobs_wanted)
    generation = context.start(desk, [prompt], sampling, body.stop_strings, body.n, entry)
    writer = _Writer(desk, generation, entry, bool(body.logprobs))
    if body.stream:
        events = writer.events(body.include_usage, body.continuous_usage)
        return EventStream(events, on_close=generation.close)
    return JSONResponse(await until_disconnect(request, writer.whole(), generation.close))


def _prompt_id(body: ChatBody) -> str | None:
    by_reference = body.prompt.id if body.prompt else None
    if body.prompt_id and by_reference and body.prompt_id != by_reference:
        raise bad_value("prompt", "prompt.id and prompt_id differ.")
    return body.prompt_id or by_reference


def _refuse_unsupported(body: ChatBody) -> None:
    """Fields whose meaning would be lost silently; all others unknown are ignored."""
    extra = body.model_extra or {}
    if body.top_logprobs and not body.logprobs:
        raise bad_value("top_logprobs", "top_logprobs needs logprobs to be true.")
    if extra.get("tools") and extra.get("tool_choice") != "none":
        raise bad_value("tools", "Tools are not supported.", "unsupported_parameter")
    response_format = extra.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") not in (None, "text"):
        raise bad_value(
            "response_format",
            'Only response_format {"type": "text"} is supported.',
            "unsupported_parameter",
        )


async def _prepare(
    context: ApiContext,
    desk: ModelDesk,
    entry: PromptEntry | None,
    body: ChatBody,
    owner: str,
) -> tuple[PromptEntry | None, PreparedPrompt]:
    """The registered prompt to use, and the tokens behind it."""
    messages = [plain_message(message) for message in body.messages]
    if entry is not None:
        messages = [*entry.chat_messages(), *messages]
    token_ids = await desk.renderer.chat(messages, generation_prompt=True)
    if entry is not None:
        rest = entry.rest_of(token_ids)
        if rest is None:
            raise bad_value(
                "messages",
                f"The chat template of `{desk.model.name}` does not keep the prompt "
                f"`{entry.record.id}` as a token prefix when these messages follow it.",
                "template_not_prefix",
            )
        return entry, PreparedPrompt(rest, entry.pinned)
    matched = context.prompts.match(owner, desk.model, messages, token_ids)
    if matched is None:
        return None, PreparedPrompt(token_ids)
    entry, rest = matched
    return entry, PreparedPrompt(rest, entry.pinned)


@dataclass(slots=True)
class _Writer:
    """Writes one generation as a chat completion, whole or in chunks."""

    desk: ModelDesk
    generation: Generation
    entry: PromptEntry | None
    with_logprobs: bool
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    async def whole(self) -> dict[str, Any]:
        texts: list[list[str]] = [[] for _ in self.generation.choices]
        logprobs: list[list[Any]] = [[] for _ in self.generation.choices]
        async for piece in self.generation.pieces():
            texts[piece.choice].append(piece.text)
            logprobs[piece.choice].append(piece.logprob)
        choices = [
            {
                "index": choice.index,
                "message": {
                    "role": "assistant",
                    "content": "".join(texts[choice.index]),
                    "refusal": None,
                },
                "logprobs": self._logprobs(logprobs[choice.index]),
                "finish_reason": choice.finish_reason,
            }
            for choice in self.generation.choices
        ]
        return self._head("chat.completion") | {
            "choices": choices,
            "usage": usage_of(self.generation.choices),
        }

    async def events(self, include_usage: bool, continuous_usage: bool) -> AsyncIterator[bytes]:
        """One chunk a generated token, then the usage chunk if asked for."""
        head = self._head("chat.completion.chunk")
        begun: set[int] = set()
        async for piece in self.generation.pieces():
            chunk = head | {"choices": [self._chunk_choice(piece, piece.choice not in begun)]}
            begun.add(piece.choice)
            if continuous_usage:
                chunk["usage"] = usage_of(self.generation.choices)
            elif include_usage:
                chunk["usage"] = None
            yield event(chunk)
        if include_usage:
            yield event(head | {"choices": [], "usage": usage_of(self.generation.choices)})

    def _chunk_choice(self, piece: Piece, first: bool) -> dict[str, Any]:
        delta: dict[str, Any] = {"content": piece.text}
        if first:
            delta = {"role": "assistant", **delta}
        return {
            "index": piece.choice,
            "delta": delta,
            "logprobs": self._logprobs([piece.logprob]),
            "finish_reason": piece.finish_reason,
        }

    def _logprobs(self, logprobs: list[Any]) -> dict[str, Any] | None:
        return chat_logprobs(self.desk.token_texts, logprobs) if self.with_logprobs else None

    def _head(self, kind: str) -> dict[str, Any]:
        head: dict[str, Any] = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.desk.model.name,
            "system_fingerprint": self.desk.model.system_fingerprint,
        }
        if self.entry is not None:
            head["prompt_id"] = self.entry.record.id
        return head
