"""From messages and texts to token ids."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import anyio.to_thread
import jinja2
from transformers import PreTrainedTokenizerBase

from .errors import ApiError, bad_value
from .prompt_variables import fill, fill_messages
from .served_models import ServedModel
from .tool_format import ToolFormat, format_of

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]]
T = TypeVar("T")

# Turns that may follow registered ones; their beginnings tempt a tokenizer to merge across the
# border: a letter, a space, a line break, a digit, a mark.
_PROBES = ("a", " a", "\n\na", "7", "!?")


class Renderer:
    """Tokenises for one served model; long texts in a worker thread.

    Args:
        threaded_chars: texts at least this long leave the event loop.
    """

    def __init__(self, model: ServedModel, threaded_chars: int) -> None:
        self.model = model
        self.tokenizer: PreTrainedTokenizerBase = model.tokenizer
        self._threaded_chars = threaded_chars

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        generation_prompt: bool,
        tools: Tools | None = None,
        param: str = "messages",
    ) -> list[int]:
        """Token ids of the conversation as the model's chat template writes it."""
        size = sum(len(str(message.get("content"))) for message in messages) + len(str(tools))
        return await self._run(
            size,
            lambda: self._render_ids(
                messages, generation_prompt=generation_prompt, tools=tools, param=param
            ),
        )

    @functools.cached_property
    def tool_format(self) -> ToolFormat | None:
        """How the model writes calls of tools; None where its template does not say."""
        if not self.tokenizer.chat_template:
            return None
        return format_of(str(self.tokenizer.get_chat_template(tools=[{}])))

    def known_tool_format(self) -> ToolFormat:
        """The same; ApiError (400) where calls could not be found in an answer."""
        if self.tool_format is None:
            raise bad_value(
                "tools",
                f"The chat template of `{self.model.name}` takes no tools, or shows calls in a "
                "form that is not known here (known: Hermes and Qwen, Llama 3).",
                "unsupported_parameter",
            )
        return self.tool_format

    @functools.cached_property
    def hidden_marks(self) -> dict[int, str]:
        """The marks of calls that are left out of the text, by their tokens."""
        marks = self.tool_format.marks if self.tool_format else ()
        known = self.tokenizer.get_vocab()
        ids = {known[mark]: mark for mark in marks if mark in known}
        return {
            token_id: mark
            for token_id, mark in ids.items()
            if not self.tokenizer.decode([token_id], skip_special_tokens=True)
        }

    async def text(self, text: str, *, special_tokens: bool, param: str = "prompt") -> list[int]:
        """Token ids of plain text; `special_tokens` adds what begins a text (BOS)."""
        return await self._run(
            len(text), lambda: self._encode(text, special_tokens=special_tokens, param=param)
        )

    async def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones included."""
        return await self._run(
            len(token_ids),
            lambda: str(self.tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False)),
        )

    async def registered_chat(
        self,
        messages: Sequence[Message],
        variables: Sequence[str] = (),
        tools: Tools | None = None,
    ) -> list[int]:
        """Token ids of messages to register, and of the tools that go with them, after checking
        that turns can follow them; with variables, those in front of the first one.

        Raises:
            ApiError: 400 where the template does not write these messages as a token prefix of a
                longer conversation, or the model's calls of tools are not known.
        """
        if tools:
            self.known_tool_format()
        if not variables:
            return await anyio.to_thread.run_sync(self._registered_ids, messages, tools)
        return await self._fixed(
            variables,
            lambda values: self._render_ids(
                fill_messages(messages, values), generation_prompt=False, tools=tools
            ),
        )

    async def registered_text(self, text: str, variables: Sequence[str]) -> list[int]:
        """The same of text to register."""

        def ids(values: Mapping[str, str]) -> list[int]:
            return self._encode(fill(text, values), special_tokens=True, param="text")

        if not variables:
            return await self._run(len(text), lambda: ids({}))
        return await self._fixed(variables, ids)

    async def _fixed(
        self, variables: Sequence[str], ids: Callable[[Mapping[str, str]], list[int]]
    ) -> list[int]:
        """The tokens that stay the same whatever the variables hold."""

        def common() -> list[int]:
            return _common_beginning(
                [ids(dict.fromkeys(variables, probe)) for probe in ("", *_PROBES)]
            )

        return await anyio.to_thread.run_sync(common)

    async def _run(self, size: int, work: Callable[[], T]) -> T:
        if size < self._threaded_chars:
            return work()
        return await anyio.to_thread.run_sync(work)

    def _registered_ids(self, messages: Sequence[Message], tools: Tools | None) -> list[int]:
        registered = self._render_ids(messages, generation_prompt=False, tools=tools)
        # Some templates write a system text only into the user turn behind it.
        changed = [*messages[:-1], {**messages[-1], "content": f"{messages[-1]['content']}?"}]
        if self._render_ids(changed, generation_prompt=False, tools=tools) == registered:
            raise _not_a_prefix(self.model.name)
        followers = ("user", "assistant") if messages[-1]["role"] == "user" else ("user",)
        failure: ApiError | None = None
        for role in followers:
            try:
                for text in _PROBES:
                    longer = [*messages, {"role": role, "content": text}]
                    whole = self._render_ids(longer, generation_prompt=True, tools=tools)
                    if whole[: len(registered)] != registered:
                        raise _not_a_prefix(self.model.name)
                return registered
            except ApiError as error:  # a template may forbid two user turns in a row
                failure = failure or error
        assert failure is not None
        raise failure

    def _render_ids(
        self,
        messages: Sequence[Message],
        *,
        generation_prompt: bool,
        tools: Tools | None = None,
        param: str = "messages",
    ) -> list[int]:
        text = self._render(messages, generation_prompt, tools, param)
        return self._encode(text, special_tokens=False, param=param)

    def _render(
        self,
        messages: Sequence[Message],
        generation_prompt: bool,
        tools: Tools | None,
        param: str,
    ) -> str:
        if not self.tokenizer.chat_template:
            raise bad_value(
                "model",
                f"The model `{self.model.name}` has no chat template; use /v1/completions.",
                "no_chat_template",
            )
        try:
            text = self.tokenizer.apply_chat_template(
                [_for_template(message) for message in messages],
                tools=tools,
                tokenize=False,
                add_generation_prompt=generation_prompt,
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            raise bad_value(
                param, f"The model's chat template refuses these messages: {error}"
            ) from error
        assert isinstance(text, str)
        return text

    def _encode(self, text: str, *, special_tokens: bool, param: str) -> list[int]:
        if not _is_unicode(text):
            raise bad_value(param, f"{param} holds a lone surrogate, which is not text.")
        return list(self.tokenizer.encode(text, add_special_tokens=special_tokens))


def _common_beginning(rows: Sequence[list[int]]) -> list[int]:
    columns = enumerate(zip(*rows, strict=False))
    length = next((i for i, column in columns if len(set(column)) > 1), min(map(len, rows)))
    return rows[0][:length]


def _for_template(message: Message) -> dict[str, Any]:
    """A message with the arguments of its calls as objects, which templates write as JSON."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    return {**message, "tool_calls": [_with_object(call) for call in calls]}


def _with_object(call: Any) -> Any:
    try:
        arguments = json.loads(call["function"]["arguments"])
    except (TypeError, KeyError, ValueError):
        return call
    return {**call, "function": {**call["function"], "arguments": arguments}}


def _not_a_prefix(model_name: str) -> ApiError:
    return bad_value(
        "messages",
        f"The chat template of `{model_name}` does not keep these messages as a token prefix of "
        "a longer conversation, so they cannot be registered. Register them as text for "
        "/v1/completions, or end them with another role.",
        "template_not_prefix",
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
