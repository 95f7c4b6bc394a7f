"""Gist training data: JSONL to token ids.

One JSON object a line:

    {"prompt": "...", "input": "...", "output": "..."}
    {"prompt": "...", "turns": [{"input": "...", "output": "..."}, ...]}

Lines with the same prompt are gathered. With a chat template the prompt is the system message (or,
where it is a list, the leading messages), input and output a user and an assistant message; what
the template writes for the prompt alone must be a token prefix of the whole, since it is that which
is compressed. Without one the three texts are tokenised apart and follow each other as they are,
with the tokenizer's first special tokens in front and its end token behind.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..records import DataError
from .batch import GistExample, Turn

logger = logging.getLogger(__name__)

Prompt = str | list[dict[str, Any]]


@dataclass(frozen=True)
class Limits:
    """The longest prompt + gist tokens + turn allowed, and what to do with longer ones."""

    max_tokens: int
    gist_tokens: int
    skip_too_long: bool = False
    turns_per_prompt: int | None = None


class Renderer:
    """Turns prompts, inputs and outputs into token ids for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, use_chat_template: bool = True) -> None:
        self._tokenizer = tokenizer
        self._templated = use_chat_template and tokenizer.chat_template is not None

    def prompt(self, prompt: Prompt) -> list[int]:
        """Token ids of the part that is compressed. ValueError where the template refuses it."""
        if self._templated:
            return self._plain([self._chat(_messages(prompt))])[0]
        if not isinstance(prompt, str):
            raise ValueError("the prompt is a list of messages, but there is no chat template")
        ids: list[int] = self._tokenizer(prompt).input_ids
        if ids and ids[-1] == self._tokenizer.eos_token_id:
            ids = ids[:-1]
        return ids

    def turns(
        self, prompt: Prompt, prompt_ids: list[int], pairs: Sequence[tuple[str, str]]
    ) -> list[Turn]:
        """Token ids of turns (input, output) behind `prompt`, whose own ids are `prompt_ids`.

        ValueError where the chat template does not keep the prompt as a prefix.
        """
        if not self._templated:
            end = self._tokenizer.eos_token_id
            tail = [] if end is None else [end]
            inputs = self._plain([given for given, _ in pairs])
            outputs = self._plain([output for _, output in pairs])
            return [Turn(i, o + tail) for i, o in zip(inputs, outputs, strict=True)]
        questions = [[*_messages(prompt), {"role": "user", "content": given}] for given, _ in pairs]
        heads = self._plain([self._chat(q, add_generation_prompt=True) for q in questions])
        wholes = self._plain(
            [
                self._chat([*question, {"role": "assistant", "content": output}])
                for question, (_, output) in zip(questions, pairs, strict=True)
            ]
        )
        rendered = zip(heads, wholes, strict=True)
        return [self._templated_turn(prompt_ids, head, whole) for head, whole in rendered]

    def _templated_turn(self, prompt_ids: list[int], head: list[int], whole: list[int]) -> Turn:
        if head[: len(prompt_ids)] != prompt_ids:
            raise ValueError(
                "the chat template does not render the prompt as a prefix of the conversation "
                "(it changes once a message follows): the prompt cannot be compressed on its own; "
                "use another template, or use_chat_template: false"
            )
        if whole[: len(head)] != head:
            raise ValueError(
                "the chat template renders an answered question differently from an open one: "
                "use another template, or use_chat_template: false"
            )
        return Turn(head[len(prompt_ids) :], self._answer(whole[len(head) :]))

    def _answer(self, ids: list[int]) -> list[int]:
        """Cut off what the template writes behind the end token (a line break, mostly)."""
        end = self._tokenizer.eos_token_id
        if end not in ids:
            return ids
        return ids[: len(ids) - ids[::-1].index(end)]

    def _plain(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False).input_ids
        return ids

    def _chat(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool = False) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # templates raise whatever their authors chose
            raise ValueError(f"the chat template refuses the messages: {error}") from error
        return text


def load_examples(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    limits: Limits,
    *,
    use_chat_template: bool = True,
) -> list[GistExample]:
    """Read a JSONL file. Raises DataError naming file and line of whatever is wrong in it."""
    renderer = Renderer(tokenizer, use_chat_template)
    gathered: dict[str, GistExample] = {}
    skipped = 0
    records = tqdm(
        _records(Path(path)),
        desc=f"reading {Path(path).name}",
        unit=" lines",
        mininterval=1,
        delay=2,
    )
    for line, prompt, pairs in records:
        try:
            key = json.dumps(prompt, sort_keys=True)
            if key not in gathered:
                ids = renderer.prompt(prompt)
                if not ids:
                    raise ValueError("the prompt has no tokens")
            else:
                ids = gathered[key].prompt_ids
            turns = renderer.turns(prompt, ids, pairs)
            kept = [turn for turn in turns if _fits(ids, turn, limits)]
        except ValueError as error:
            raise DataError(f"{path}:{line}: {error}") from error
        skipped += len(turns) - len(kept)
        if kept and key in gathered:
            gathered[key].turns.extend(kept)
        elif kept:
            gathered[key] = GistExample(ids, kept)
    if not gathered:
        raise DataError(f"{path} holds no usable example ({skipped} were too long)")
    if skipped:
        logger.warning("%s: %d turn(s) over %d tokens skipped", path, skipped, limits.max_tokens)
    return [part for example in gathered.values() for part in _split(example, limits)]


def _records(path: Path) -> Iterator[tuple[int, Prompt, list[tuple[str, str]]]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, text in enumerate(lines, start=1):
                if text.strip():
                    yield number, *_record(text, f"{path}:{number}")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from error


def _record(text: str, where: str) -> tuple[Prompt, list[tuple[str, str]]]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(record).__name__}")
    prompt = record.get("prompt")
    if not (isinstance(prompt, str | list) and prompt):
        raise DataError(f"{where}: the field prompt must be non-empty text (or messages)")
    if isinstance(prompt, list) and not all(isinstance(message, dict) for message in prompt):
        raise DataError(f"{where}: the field prompt must hold messages with role and content")
    turns = record.get("turns", [record])
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where}: the field turns must be a non-empty list")
    return prompt, [_pair(turn, where) for turn in turns]


def _pair(turn: Any, where: str) -> tuple[str, str]:
    if not isinstance(turn, dict):
        raise DataError(f"{where}: each of turns must be an object with input and output")
    for name in ("input", "output"):
        if name not in turn:
            raise DataError(f"{where}: the field {name} is missing")
        if not isinstance(turn[name], str):
            raise DataError(f"{where}: the field {name} must be text, got {turn[name]!r}")
    return turn["input"], turn["output"]


def _fits(prompt_ids: list[int], turn: Turn, limits: Limits) -> bool:
    count = len(prompt_ids) + limits.gist_tokens + len(turn.input_ids) + len(turn.output_ids)
    if count <= limits.max_tokens:
        return True
    if limits.skip_too_long:
        return False
    raise ValueError(
        f"prompt, gist tokens and turn take {count} tokens, over the limit of "
        f"{limits.max_tokens}: shorten it, or set skip_too_long: true"
    )


def _split(example: GistExample, limits: Limits) -> Iterator[GistExample]:
    size = limits.turns_per_prompt or len(example.turns)
    for start in range(0, len(example.turns), size):
        yield GistExample(example.prompt_ids, example.turns[start : start + size])


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    return [{"role": "system", "content": prompt}] if isinstance(prompt, str) else prompt
