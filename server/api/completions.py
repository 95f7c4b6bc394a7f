"""POST /v1/completions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from ..engine.request import TokenLogprob
from .answers import Completion
from .arrival import arrival_of
from .context import ApiContext, ModelDesk, api_context, owner
from .errors import bad_value
from .generation import Choice, Generation, Piece, PreparedPrompt, check_fits
from .json_route import JsonRoute
from .logprobs import completion_logprobs
from .openapi import streamed_responses
from .prompt_entry import PromptEntry
from .prompt_variables import fill
from .reply import Reply
from .schemas import DEFAULT_COMPLETION_TOKENS, MAX_CHOICES, CompletionBody, check_token_ids

router = APIRouter(tags=["completions"], route_class=JsonRoute)


@router.post(
    "/v1/completions",
    response_model=Completion,
    responses=streamed_responses(),
)
async def create_completion(
    body: CompletionBody,
    request: Request,
    context: Annotated[ApiContext, Depends(api_context)],
    owner: Annotated[str, Depends(owner)],
) -> Response:
    """Continues text or tokens, if asked behind a registered prompt.

    Behind a registered prompt the text is tokenised on its own, so a word is never joined across
    the border: end the registered text where a token ends (a line break, for one).
    """
    context.check_open()
    _refuse_unsupported(body)
    desk, entry = context.choose(owner, body.model, body.prompt_id)
    _refuse_across_prompt(body, entry)
    filled = await _filled_prompt(desk, entry, body.prompt_variables)
    prompts = [await _prepare(desk, entry, filled, prompt) for prompt in body.prompts]
    for prompt in prompts:
        check_fits(desk.model, prompt, body.max_tokens, "prompt")
    want_prompt = body.logprobs if body.echo else None
    sampling = body.engine_sampling(_token_limit(desk, body, prompts), body.logprobs, want_prompt)
    settings = body.answer_settings(sampling, await desk.grammar_of(body.response_format))
    meter = desk.meter_request(arrival_of(request))
    generation = await context.start(desk, prompts, settings, entry, meter)
    reply = CompletionReply(
        desk,
        generation,
        entry,
        echo=bool(body.echo),
        with_logprobs=body.logprobs is not None,
    )
    return await reply.send(request, body)


def _refuse_unsupported(body: CompletionBody) -> None:
    if body.best_of is not None and body.best_of not in (1, body.n or 1):
        raise bad_value("best_of", "best_of must be 1 or equal n: choices are not ranked.")
    if body.suffix:
        raise bad_value("suffix", "suffix is not supported.", "unsupported_parameter")
    if len(body.prompts) * (body.n or 1) > MAX_CHOICES * 16:
        raise bad_value("n", f"At most {MAX_CHOICES * 16} choices are allowed in one request.")


def _refuse_across_prompt(body: CompletionBody, entry: PromptEntry | None) -> None:
    if entry is not None and body.echo and body.logprobs is not None:
        raise bad_value(
            "echo",
            "Log-probabilities of the prompt cannot be given behind a registered prompt: its "
            "tokens are not computed. Leave out echo or logprobs, or send the whole text.",
        )


async def _filled_prompt(
    desk: ModelDesk, entry: PromptEntry | None, variables: dict[str, Any] | None
) -> list[int]:
    """The tokens from a registered text's first variable to its end."""
    if entry is None or not (entry.record.variables or variables):
        return []
    if entry.record.text is None:
        raise bad_value(
            "prompt_id",
            f"The prompt `{entry.record.id}` has variables in its messages; use it in a chat.",
        )
    values = entry.values(variables)
    registered = entry.record.prompt_token_ids
    text = fill(entry.record.text or "", values)
    token_ids = await desk.renderer.text(text, special_tokens=True)
    if token_ids[: len(registered)] != registered:
        raise bad_value(
            "prompt_variables",
            f"With these values the tokens of the prompt `{entry.record.id}` no longer begin with "
            "the compressed ones. Begin the values in another way, with a space for one.",
        )
    return token_ids[len(registered) :]


async def _prepare(
    desk: ModelDesk, entry: PromptEntry | None, filled: list[int], prompt: str | list[int]
) -> PreparedPrompt:
    if isinstance(prompt, str):
        token_ids = await desk.renderer.text(prompt, special_tokens=entry is None)
    else:
        check_token_ids(prompt, desk.model.engine.vocab_size, "prompt")
        token_ids = prompt
    if not token_ids:
        raise bad_value("prompt", "prompt must hold at least one token.")
    if entry is not None:
        return entry.prepared([*filled, *token_ids], continues_text=True)
    return PreparedPrompt(token_ids, continues_text=True)


def _token_limit(desk: ModelDesk, body: CompletionBody, prompts: Sequence[PreparedPrompt]) -> int:
    """Tokens to generate: what was asked for, else OpenAI's default as far as it fits."""
    if body.max_tokens is not None:
        return body.max_tokens
    room = desk.model.max_model_len - max(prompt.positions for prompt in prompts)
    return min(DEFAULT_COMPLETION_TOKENS, room)


@dataclass(slots=True)
class _Tokens:
    """Text and tokens of one choice as they gather."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob | None] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        if piece.token_id is not None:
            self.token_ids.append(piece.token_id)
            self.logprobs.append(piece.logprob)


class CompletionReply(Reply):
    """Writes a text completion; an echoed prompt is in a choice's first chunk."""

    kind = chunk_kind = "text_completion"
    id_prefix = "cmpl"

    def __init__(
        self,
        desk: ModelDesk,
        generation: Generation,
        entry: PromptEntry | None,
        *,
        echo: bool,
        with_logprobs: bool,
    ) -> None:
        super().__init__(desk, generation, entry)
        self._echo = echo
        self._with_logprobs = with_logprobs
        self._gathered: dict[int, _Tokens] = {}
        self._offsets: dict[int, int] = {}

    def gather(self, piece: Piece) -> None:
        if piece.choice not in self._gathered:
            self._gathered[piece.choice] = self._echoed(self.generation.choices[piece.choice])
        self._gathered[piece.choice].add(piece)

    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        return self._written(choice.index, self._gathered[choice.index], 0, choice.finish_reason)

    def chunk_choice(self, piece: Piece) -> dict[str, Any]:
        first = piece.choice not in self._offsets
        if not (self._with_logprobs or (first and self._echo)):
            return self._choice(piece.choice, piece.text, None, piece.finish_reason)
        tokens = self._echoed(self.generation.choices[piece.choice]) if first else _Tokens()
        tokens.add(piece)
        start = self._offsets.get(piece.choice, 0)
        self._offsets[piece.choice] = start + len(tokens.text)
        return self._written(piece.choice, tokens, start, piece.finish_reason)

    def _echoed(self, choice: Choice) -> _Tokens:
        """The prompt, where the answer begins with it."""
        if not self._echo:
            return _Tokens()
        token_ids = choice.prompt.token_ids
        text = self.desk.model.tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        logprobs = choice.prompt_logprobs or [None] * len(token_ids)
        return _Tokens(text, list(token_ids), list(logprobs))

    def _written(
        self, index: int, tokens: _Tokens, start_offset: int, finish_reason: str | None
    ) -> dict[str, Any]:
        logprobs = None
        if self._with_logprobs:
            logprobs = completion_logprobs(
                self.desk.token_texts, tokens.token_ids, tokens.logprobs, start_offset
            )
        return self._choice(index, tokens.text, logprobs, finish_reason)

    def _choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None
    ) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
