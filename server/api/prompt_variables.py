"""Variables of registered prompts: `{{name}}` in their text, given anew by each request."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .errors import bad_value

NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with every `{{name}}` of a value replaced; what a value holds stays as it is."""
    return _places(values).sub(lambda place: values[place[1]], text) if values else text


def fill_messages(
    messages: Sequence[Mapping[str, Any]], values: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The same in the content of messages."""
    return [{**message, "content": fill(message["content"], values)} for message in messages]


def check_names(names: Sequence[str], texts: Sequence[str]) -> None:
    """Raises ApiError (400) for a name that is given twice or not used, and for a prompt that has
    nothing in front of its first variable."""
    for name in names:
        if names.count(name) > 1:
            raise bad_value("variables", f"variables names `{name}` twice.")
        if not any(_places([name]).search(text) for text in texts):
            raise bad_value("variables", f"`{{{{{name}}}}}` does not occur in the prompt.")
    if names and _places(names).match(texts[0].lstrip()):
        raise bad_value(
            "variables",
            "The prompt begins with a variable, so there is nothing in front to compress. Let the "
            "variables follow what stays the same.",
        )


def values_for(names: Sequence[str], given: Mapping[str, Any] | None, param: str) -> dict[str, str]:
    """The values that a request gives a prompt with these variables.

    Raises:
        ApiError: 400 naming what is missing, unknown, or no text.
    """
    given = given or {}
    missing = [name for name in names if name not in given]
    if missing:
        raise bad_value(param, f"The prompt needs values for {_listed(missing)}.")
    unknown = [name for name in given if name not in names]
    if unknown:
        raise bad_value(param, f"The prompt has no variables {_listed(unknown)}.")
    return {name: _text(given[name], f"{param}.{name}") for name in names}


def _text(value: Any, param: str) -> str:
    if isinstance(value, Mapping) and value.get("type") == "input_text":
        value = value.get("text")
    if not isinstance(value, str):
        raise bad_value(param, f"{param} must be text.")
    return value


def _places(names: Iterable[str]) -> re.Pattern[str]:
    return re.compile(r"\{\{\s*(" + "|".join(map(re.escape, names)) + r")\s*\}\}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
