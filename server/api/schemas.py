"""Request bodies of the generation routes.

Unknown fields are kept and ignored, and null stands for "not given" in every optional one, as
real clients need. Wrong types are refused (no "0.5" for 0.5). Ranges that the engine checks are
not checked twice.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ..engine.grammar import Grammar
from ..engine.request import SamplingParams, SamplingParamsError
from .base_schema import RequestBody
from .errors import bad_value, prompt_not_found
from .generation import AnswerSettings
from .tool_schemas import MAX_TOOLS, Tool, ToolChoice

MAX_CHOICES = 128
MAX_PROMPTS = 2048
MAX_STOP_STRINGS = 32
MAX_LOGPROBS = 20
DEFAULT_COMPLETION_TOKENS = 16

ANY_OBJECT = {"type": "object"}
"""The schema of `response_format` {"type": "json_object"}."""

# JSON has no such numbers, but Python's reader takes them.
Number = Annotated[float, Field(allow_inf_nan=False)]


class StreamOptions(RequestBody):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class PromptReference(RequestBody):
    """OpenAI's way of naming a reusable prompt: ``prompt: {"id": "pmpt_…"}``."""

    id: str
    version: str | None = Field(None, description='Prompts have one version, "1".')
    variables: dict[str, Any] | None = Field(None, description="Values of its variables.")


def referenced_prompt(prompt_id: str | None, reference: PromptReference | None) -> str | None:
    """The id of the prompt that a request names, in either way or both.

    Raises:
        ApiError: 400 where the two differ, 404 for a version that there is not.
    """
    if reference is None:
        return prompt_id
    if prompt_id and prompt_id != reference.id:
        raise bad_value("prompt", "prompt.id and prompt_id differ.")
    if reference.version not in (None, "1"):
        raise prompt_not_found(f"{reference.id}, version {reference.version}")
    return reference.id


def check_token_ids(token_ids: Sequence[int], vocab_size: int, param: str) -> None:
    """Raises ApiError (400) for an id outside the vocabulary."""
    wrong = next((token_id for token_id in token_ids if not 0 <= token_id < vocab_size), None)
    if wrong is not None:
        raise bad_value(
            param, f"Token id {wrong} is outside the vocabulary of {vocab_size} tokens."
        )


def prompt_values(
    given: dict[str, Any] | None, reference: PromptReference | None
) -> dict[str, Any]:
    """Values of a prompt's variables, in either place; the reference's win."""
    return (given or {}) | ((reference.variables if reference else None) or {})


class JsonSchemaFormat(RequestBody):
    """A schema that the answer follows, with or without `strict`."""

    name: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(RequestBody):
    """What the answer is written in."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @property
    def schema_wanted(self) -> dict[str, Any] | None:
        """The JSON schema of the answer; None for any text."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return ANY_OBJECT
        if self.json_schema is None:
            raise bad_value(
                "response_format", 'response_format of type "json_schema" needs json_schema.'
            )
        given = self.json_schema.json_schema
        return ANY_OBJECT if given is None else given


class GenerationBody(RequestBody):
    """Fields that chat and text completions share."""

    model: str | None = Field(
        None, description="Model name, or `<model>/<prompt name>` to use a registered prompt."
    )
    prompt_id: str | None = Field(None, description="Registered prompt to continue.")
    prompt_variables: dict[str, Any] | None = Field(
        None, description="Values of the registered prompt's variables, however it is named."
    )
    max_tokens: int | None = Field(None, ge=0)
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: int | None = None
    min_p: Number | None = None
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    repetition_penalty: Number | None = None
    logit_bias: dict[str, Number] | None = None
    stream: bool | None = None
    response_format: ResponseFormat | None = Field(
        None, description="Keeps the answer to JSON, or to JSON of a schema."
    )
    stream_options: StreamOptions | None = None
    user: str | None = None

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > MAX_STOP_STRINGS:
            raise ValueError(f"at most {MAX_STOP_STRINGS} stop strings are allowed")
        if "" in stops:
            raise ValueError("a stop string must not be empty")
        return value

    @field_validator("logit_bias")
    @classmethod
    def _check_logit_bias(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for key in value or {}:
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                raise ValueError(f"keys must be token ids, got {key[:40]!r}")
        return value

    @property
    def stop_strings(self) -> tuple[str, ...]:
        stop = self.stop or ()
        return (stop,) if isinstance(stop, str) else tuple(stop)

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)

    def answer_settings(self, sampling: SamplingParams, grammar: Grammar | None) -> AnswerSettings:
        return AnswerSettings(sampling, self.stop_strings, self.n or 1, grammar)

    def engine_sampling(
        self, max_tokens: int | None, logprobs: int | None, prompt_logprobs: int | None = None
    ) -> SamplingParams:
        """The engine's sampling parameters; raises ApiError (400) naming a bad one."""
        given: dict[str, Any] = {
            name: value for name in _SAMPLING_FIELDS if (value := getattr(self, name)) is not None
        }
        try:
            return SamplingParams(
                **given,
                max_tokens=max_tokens,
                stop_token_ids=tuple(self.stop_token_ids or ()),
                ignore_eos=bool(self.ignore_eos),
                logit_bias={int(k): v for k, v in (self.logit_bias or {}).items()},
                logprobs=logprobs,
                prompt_logprobs=prompt_logprobs,
            )
        except SamplingParamsError as error:
            raise bad_value(error.param, f"{error}.") from error


_SAMPLING_FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "min_tokens",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)


class ChatMessage(RequestBody):
    """One turn. ``content`` is text, or a list of ``{"type": "text", "text": …}`` parts."""

    role: str = Field(min_length=1)
    content: str | list[dict[str, Any]] | None = None

    @field_validator("content")
    @classmethod
    def _check_parts(
        cls, value: str | list[dict[str, Any]] | None
    ) -> str | list[dict[str, Any]] | None:
        for part in value if isinstance(value, list) else ():
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ValueError('only parts {"type": "text", "text": …} are supported')
        return value


def plain_message(message: ChatMessage) -> dict[str, Any]:
    """The form that is rendered, stored and compared: text content, no nulls."""
    plain = message.model_dump(exclude_none=True)
    content = message.content
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    return plain | {"content": content if content is not None else ""}


Messages = Annotated[list[ChatMessage], Field(min_length=1)]


class ChatBody(GenerationBody):
    """Body of POST /v1/chat/completions."""

    messages: Messages = Field(
        description="The conversation; behind a registered prompt, the turns that follow it."
    )
    prompt: PromptReference | None = Field(None, description="The same as `prompt_id`.")
    max_completion_tokens: int | None = Field(None, ge=0)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = Field(None, description="Default: auto.")
    parallel_tool_calls: bool | None = Field(None, description="Default: true.")

    @property
    def token_limit(self) -> int | None:
        """Most tokens to generate; None for what the context leaves."""
        limits = (self.max_completion_tokens, self.max_tokens)
        return next((limit for limit in limits if limit is not None), None)

    @property
    def logprobs_wanted(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(GenerationBody):
    """Body of POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="Text, token ids, or a list of either; behind a registered prompt, what "
        "follows it (tokenised on its own)."
    )
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    best_of: int | None = None
    suffix: str | None = None

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, value: Any) -> Any:
        if isinstance(value, list) and not value:
            raise ValueError("must not be empty")
        if isinstance(value, list) and len(value) > MAX_PROMPTS and not isinstance(value[0], int):
            raise ValueError(f"at most {MAX_PROMPTS} prompts are allowed in one request")
        return value

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts one by one, each text or token ids."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt[0], int):
            return [prompt]
        return prompt


class TokenizeBody(RequestBody):
    """Body of POST /tokenize; exactly one of `prompt` and `messages`."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool = Field(True, description="Add what begins a text (for `prompt`).")
    add_generation_prompt: bool = Field(True, description="Begin the answer (for `messages`).")
    return_token_strs: bool = False


class DetokenizeBody(RequestBody):
    """Body of POST /detokenize."""

    model: str | None = None
    tokens: list[int]
