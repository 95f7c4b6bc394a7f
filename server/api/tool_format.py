"""How a model writes a call of a tool, as its chat template shows."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.grammar import with_whitespace
from .tool_schemas import FunctionSpec


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """A JSON object of name and arguments, between two marks.

    begin: what opens a call ("" where a call is the whole answer); end: what closes it;
    arguments: the key of the arguments; ignored: marks that may stand in front of an answer that
    is a call.
    """

    begin: str
    end: str
    arguments: str
    ignored: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that some tokenizers have as special tokens, whose text is otherwise left out."""
        return tuple(mark for mark in (self.begin, self.end, *self.ignored) if mark)

    def grammar(
        self,
        functions: Sequence[FunctionSpec],
        parallel: bool,
        is_token: Callable[[str], bool],
        answer: dict[str, Any] | None,
    ) -> str:
        """llguidance's Lark for one call of these functions, or several if `parallel`.

        is_token: whether a mark is a special token of the tokenizer; answer: the schema of the
        JSON that may stand in place of calls.
        """
        calls = " | ".join(f"call_{i}" for i in range(len(functions)))
        begin, end = (_mark(mark, is_token) for mark in (self.begin, self.end))
        lines = ["start: calls" if answer is None else "start: calls | answer"]
        if answer is not None:
            lines.append(f"answer: %json {_written(answer)}")
        lines.append(r'calls: call ("\n" call)*' if parallel and self.begin else "calls: call")
        lines.append(f"call: {begin} ({calls}) {end}")
        for i, function in enumerate(functions):
            lines += self._call_rules(i, function, function.arguments_schema)
        return "\n".join(lines)

    def free_grammar(
        self,
        functions: Sequence[FunctionSpec],
        parallel: bool,
        is_token: Callable[[str], bool],
    ) -> str:
        """The same for any text in which calls may stand; only calls are kept to anything.

        Arguments of a strict function follow its schema, those of others are an object. Nothing
        follows the first call unless `parallel`.
        """
        rules = self._calls_in_text if self.begin else self._call_or_text
        lines = rules(parallel, is_token)
        lines.append("call: " + " | ".join(f"call_{i}" for i in range(len(functions))))
        for i, function in enumerate(functions):
            schema = function.arguments_schema if function.strict else {"type": "object"}
            lines += self._call_rules(i, function, schema)
        return "\n".join(lines)

    def _calls_in_text(self, parallel: bool, is_token: Callable[[str], bool]) -> list[str]:
        marked = is_token(self.begin)
        return [
            "start: called* TEXT" if parallel else "start: called | TEXT",
            rf'called: opening "\n" call {_mark(self.end, is_token)}',
            # The first mark ends the text, even where text could go on.
            f"opening: TEXT {self.begin}" if marked else f'opening[lazy]: TEXT "{self.begin}"',
            f"TEXT: {_ANY_TEXT}",
        ]

    def _call_or_text(self, _parallel: bool, is_token: Callable[[str], bool]) -> list[str]:
        marks = [mark if is_token(mark) else json.dumps(mark) for mark in self.ignored]
        written = "|".join(re.escape(mark) for mark in self.ignored)
        # What begins as a call is one, and so no text.
        begun = rf'\s*({written}|\{{\s*"(name|{self.arguments})"\s*:)'
        return [
            f"start: ({' | '.join(marks)})? call | TEXT",
            rf"TEXT: {_ANY_TEXT} & ~/{begun}(.|\n)*/",
        ]

    def _call_rules(self, i: int, function: FunctionSpec, schema: dict[str, Any]) -> list[str]:
        head = json.dumps(f'{{"name": "{function.name}", "{self.arguments}": ')
        return [f'call_{i}: {head} arguments_{i} "}}"', f"arguments_{i}: %json {_written(schema)}"]


_ANY_TEXT = r"/(.|\n)*/"

HERMES = ToolFormat("<tool_call>", "</tool_call>", "arguments")
"""Nous Hermes, Qwen 2.5 and 3."""

LLAMA = ToolFormat("", "", "parameters", ("<|python_tag|>",))
"""Llama 3.1 to 3.3."""


def format_of(template: str) -> ToolFormat | None:
    """The format that a chat template teaches; None where it takes no tools, or shows another.

    (Qwen's coders and others write `<function=...>` between the same marks.)
    """
    if "tools" not in template or "<function=" in template:
        return None
    if HERMES.begin in template and '"arguments"' in template:
        return HERMES
    return LLAMA if '"parameters"' in template and HERMES.begin not in template else None


def _mark(mark: str, is_token: Callable[[str], bool]) -> str:
    """A mark in the grammar, with the line break that stands between it and the call."""
    if not mark:
        return ""
    name = mark if is_token(mark) else json.dumps(mark)
    return rf'"\n" {name}' if mark.startswith("</") else rf'{name} "\n"'


def _written(schema: dict[str, Any]) -> str:
    return json.dumps(with_whitespace(schema), allow_nan=False)
