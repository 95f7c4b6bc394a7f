"""Chunks of streamed answers."""

from __future__ import annotations

from typing import Any

# Where servers put what is generated: text, reasoning, or a tool's call.
_CHAT_FIELDS = ("content", "reasoning_content", "reasoning", "tool_calls")


def carries_token(choice: dict[str, Any]) -> bool:
    """Whether a chunk's choice stands for generated tokens.

    It does if it has text, and also without (half of a character is held back), unless it is one
    of the two chunks that some servers send besides: the first one of a chat, which only names the
    role, and a last one that only says why the answer ended.
    """
    delta = choice.get("delta")
    if delta is None:
        text = choice.get("text")
        return bool(text) or (text is not None and choice.get("finish_reason") is None)
    if any(delta.get(name) for name in _CHAT_FIELDS):
        return True
    if "role" in delta or choice.get("finish_reason") is not None:
        return False
    return any(delta.get(name) is not None for name in _CHAT_FIELDS)
