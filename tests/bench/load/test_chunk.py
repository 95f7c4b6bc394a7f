"""Which chunks of an answer are its tokens."""

from typing import Any

import pytest
from gistserve.bench.load.chunk import carries_token


@pytest.mark.parametrize(
    ("choice", "token"),
    [
        ({"text": "a", "finish_reason": None}, True),
        ({"text": "", "finish_reason": None}, True),  # half of a character, held back
        ({"text": "a", "finish_reason": "stop"}, True),
        ({"text": "", "finish_reason": "stop"}, False),
        ({"delta": {"role": "assistant", "content": ""}, "finish_reason": None}, False),
        ({"delta": {"role": "assistant"}}, False),
        ({"delta": {"role": "assistant", "content": None}}, False),
        ({"delta": {"role": "assistant", "content": "a"}}, True),
        ({"delta": {"content": ""}, "finish_reason": None}, True),
        ({"delta": {"content": "a"}, "finish_reason": "length"}, True),
        ({"delta": {}, "finish_reason": "stop"}, False),
        ({"delta": {"content": ""}, "finish_reason": "stop"}, False),
        ({"delta": {"content": None, "reasoning_content": "so"}}, True),
        ({"delta": {"tool_calls": [{"index": 0}]}}, True),
        ({"delta": {"content": None}, "finish_reason": None}, False),
    ],
)
def test_tokens_are_told_from_frames(choice: dict[str, Any], token: bool) -> None:
    assert carries_token(choice) is token
