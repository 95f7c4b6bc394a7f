"""From messages and texts to token ids."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import anyio.to_thread
import jinja2
from transformers import PreTrainedTokenizerBase

from .errors import ApiError, bad_value
from .served_models import ServedModel

Message = Mapping[str, Any]
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
        self, messages: Sequence[Message], *, generation_prompt: bool, param: str = "messages"
    ) -> list[int]:
        """Token ids of the conversation as the model's chat template writes it."""
        size = sum(len(str(message.get("content"))) for message in messages)
        return await self._run(
            size,
            lambda: self._render_ids(messages, generation_prompt=generation_prompt, param=param),
        )

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

    async def registered_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of messages to register, after checking that turns can follow them.

        Raises:
            ApiError: 400 where the template does not write these messages as a token prefix of a
                longer conversation.
        """
        return await anyio.to_thread.run_sync(self._registered_ids, messages)

    async def _run(self, size: int, work: Callable[[], T]) -> T:
        if size < self._threaded_chars:
            return work()
        return await anyio.to_thread.run_sync(work)

    def _registered_ids(self, messages: Sequence[Message]) -> list[int]:
        registered = self._render_ids(messages, generation_prompt=False)
        # Some templates write a system text only into the user turn behind it.
        changed = [*messages[:-1], {**messages[-1], "content": f"{messages[-1]['content']}?"}]
        if self._render_ids(changed, generation_prompt=False) == registered:
            raise _not_a_prefix(self.model.name)
        followers = ("user", "assistant") if messages[-1]["role"] == "user" else ("user",)
        failure: ApiError | None = None
        for role in followers:
            try:
                for text in _PROBES:
                    longer = [*messages, {"role": role, "content": text}]
                    whole = self._render_ids(longer, generation_prompt=True)
                    if whole[: len(registered)] != registered:
                        raise _not_a_prefix(self.model.name)
                return registered
            except ApiError as error:  # a template may forbid two user turns in a row
                failure = failure or error
        assert failure is not None
        raise failure

    def _render_ids(
        self, messages: Sequence[Message], *, generation_prompt: bool, param: str = "messages"
    ) -> list[int]:
        text = self._render(messages, generation_prompt, param)
        return self._encode(text, special_tokens=False, param=param)

    def _render(self, messages: Sequence[Message], generation_prompt: bool, param: str) -> str:
        if not self.tokenizer.chat_template:
            raise bad_value(
                "model",
                f"The model `{self.model.name}` has no chat template; use /v1/completions.",
                "no_chat_template",
            )
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
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
