"""What a request cost: logical prompt tokens, and what of them was cached or compressed."""

from collections.abc import Iterable
from typing import Any

from .generation import Choice


def usage_of(choices: Iterable[Choice]) -> dict[str, Any]:
    """OpenAI's usage object over these choices; a prompt with n choices counts once."""
    prompt_tokens = cached_tokens = gist_tokens = completion_tokens = 0
    counted: set[int] = set()
    for choice in choices:
        completion_tokens += choice.num_tokens
        if id(choice.prompt) in counted:
            continue
        counted.add(id(choice.prompt))
        prompt_tokens += choice.prompt.logical_tokens
        cached_tokens += choice.num_cached_tokens
        gist_tokens += choice.prompt.gist_slots
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens, "gist_tokens": gist_tokens},
    }
