"""POST /v1/chat/completions."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from .answers import ChatCompletion
from .arrival import arrival_of
from .chat_prompt import prepare_chat
from .context import ApiContext, ModelDesk, api_context, owner
from .errors import bad_value
from .generation import Choice, Generation, Piece, check_fits
from .logprobs import chat_logprobs
from .openapi import error_responses
from .prompt_entry import PromptEntry
from .reply import Reply
from .schemas import ChatBody, plain_message

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
    messages = [plain_message(message) for message in body.messages]
    entry, prompt = await prepare_chat(context, desk, entry, messages, owner)
    check_fits(desk.model, prompt, body.token_limit, "messages")
    sampling = body.engine_sampling(body.token_limit, body.logprobs_wanted)
    settings = body.answer_settings(sampling, await desk.grammar_of(body.response_format))
    meter = desk.meter_request(arrival_of(request))
    generation = context.start(desk, [prompt], settings, entry, meter)
    return await ChatReply(desk, generation, entry, bool(body.logprobs)).send(request, body)


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


class ChatReply(Reply):
    """Writes a chat completion."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def __init__(
        self,
        desk: ModelDesk,
        generation: Generation,
        entry: PromptEntry | None,
        with_logprobs: bool,
    ) -> None:
        super().__init__(desk, generation, entry)
        self._with_logprobs = with_logprobs
        self._texts: list[list[str]] = [[] for _ in generation.choices]
        self._gathered_logprobs: list[list[Any]] = [[] for _ in generation.choices]
        self._begun: set[int] = set()

    def gather(self, piece: Piece) -> None:
        self._texts[piece.choice].append(piece.text)
        self._gathered_logprobs[piece.choice].append(piece.logprob)

    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        return {
            "index": choice.index,
            "message": {
                "role": "assistant",
                "content": "".join(self._texts[choice.index]),
                "refusal": None,
            },
            "logprobs": self._logprobs(self._gathered_logprobs[choice.index]),
            "finish_reason": choice.finish_reason,
        }

    def chunk_choice(self, piece: Piece) -> dict[str, Any]:
        delta: dict[str, Any] = {"content": piece.text}
        if piece.choice not in self._begun:
            self._begun.add(piece.choice)
            delta = {"role": "assistant", **delta}
        return {
            "index": piece.choice,
            "delta": delta,
            "logprobs": self._logprobs([piece.logprob]),
            "finish_reason": piece.finish_reason,
        }

    def _logprobs(self, logprobs: list[Any]) -> dict[str, Any] | None:
        return chat_logprobs(self.desk.token_texts, logprobs) if self._with_logprobs else None
