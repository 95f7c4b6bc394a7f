"""How a prompt is written for the model, and its response behind it."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from ..config import ConfigError
from .config import Template

_HEAD = (
    "Below is an instruction that describes a task.\n"
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n"
)
_INPUT = "\n\n### Input:\n"
_TAIL = "\n\n### Response:\n"

_CHAT = (
    "{{% if messages | length != 1 or messages[0]['role'] != 'user' %}}"
    "{{{{ raise_exception('this model answers a single user message') }}}}"
    "{{% endif %}}"
    "{{{{ {start} + {head} + messages[0]['content'] + {tail} }}}}"
)


class PromptTemplate:
    """One of the templates of a run, for one tokenizer. ConfigError where they do not fit.

    `name`: `plain`, `instruction` (that of the paper's authors, arXiv 2306.08543, figure 9) or
    `chat` (the tokenizer's own, the prompt as its user message).
    """

    def __init__(self, name: Template, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.eos_token_id is None:
            raise ConfigError(
                "the tokenizer has no end token, so no response could ever end; set one"
            )
        if name == "chat" and tokenizer.chat_template is None:
            raise ConfigError(
                "prompt_template: chat, but the tokenizer has no chat template; choose plain or "
                "instruction"
            )
        self._name = name
        self._tokenizer = tokenizer

    def instruction(self, instruction: str, given: str = "") -> str:
        """The authors' text for an instruction, perhaps with an input."""
        return _HEAD + instruction + (_INPUT + given if given else "") + _TAIL

    def prompt_ids(self, prompt: str) -> list[int]:
        """What the model reads: special tokens in front as the tokenizer has them, none behind."""
        if self._name == "chat":
            return self._tokens(self._rendered(prompt))
        ids: list[int] = self._tokenizer(prompt).input_ids
        return ids[:-1] if ids and ids[-1] == self._tokenizer.eos_token_id else ids

    def encode(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        """Token ids of prompt and response, the latter with an end token.

        The response's tokens are those it has behind its prompt, if the prompt's own stay the same
        there. ValueError where a chat template refuses the prompt.
        """
        prompt_ids = self.prompt_ids(prompt)
        text = self._rendered(prompt) if self._name == "chat" else prompt
        whole = self._tokens(text + response, special=self._name != "chat")
        end = self._tokenizer.eos_token_id
        if whole and whole[-1] == end:
            whole = whole[:-1]
        if whole[: len(prompt_ids)] == prompt_ids:
            return prompt_ids, [*whole[len(prompt_ids) :], end]
        return prompt_ids, [*self._tokens(response), end]

    def decode(self, prompt_ids: list[int], new_ids: list[int]) -> str:
        """The text of `new_ids` behind a prompt, without special tokens.

        A tokenizer that drops the space before a text's first word keeps it here.
        """
        before: str = self._text(prompt_ids)
        whole = self._text(prompt_ids + new_ids)
        return whole[len(before) :] if whole.startswith(before) else self._text(new_ids)

    def chat_template(self) -> str | None:
        """A Jinja template that puts a user's message where instructions stood in training.

        The tokenizer's own where it has one; None for plain prompts.
        """
        if self._name != "instruction":
            own: str | None = self._tokenizer.chat_template
            return own
        adds = bool(self._tokens("", special=True))
        return _CHAT.format(start="bos_token" if adds else "''", head=repr(_HEAD), tail=repr(_TAIL))

    @property
    def pattern(self) -> str:
        """The prompt as a person would read it, for a model card."""
        return {
            "plain": "<prompt>",
            "instruction": self.instruction("<instruction>"),
            "chat": "the tokenizer's chat template, the prompt as the user's message",
        }[self._name]

    def _rendered(self, prompt: str) -> str:
        messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates raise whatever their authors chose
            raise ValueError(f"the chat template refuses the prompt: {error}") from error
        return text

    def _tokens(self, text: str, special: bool = False) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=special).input_ids
        return ids

    def _text(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
