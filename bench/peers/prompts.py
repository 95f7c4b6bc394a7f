"""Texts of an exact number of tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..load.errors import LoadError
from ..load.words import random_text
from ..load.workload import LoadRequest

_MOST_CHANGES = 1000


def exact_text(num_tokens: int, count: Callable[[str], int], rng: np.random.Generator) -> str:
    """Random words that are `num_tokens` tokens by `count`, the special ones included.

    Raises:
        LoadError: none were found, as where every text has more tokens than that.
    """
    words = [random_text(1, rng) for _ in range(num_tokens)]
    for _ in range(_MOST_CHANGES):
        # The space makes the first word a token like the others.
        text = "".join(f" {word}" for word in words)
        excess = count(text) - num_tokens
        if excess == 0 and words:
            return text
        if excess > 0:
            # Half of them, as a word may be several tokens, and one more: without it a text that is
            # one token short of being right would stay so, where every word has two.
            del words[-1 - max(1, excess // 2) :]
        else:
            words.append(random_text(1, rng))
    raise LoadError(
        f"No text of {num_tokens} tokens was found for this tokenizer; try another --input-tokens."
    )


def draw_requests(
    number: int,
    input_tokens: int,
    output_tokens: int,
    count: Callable[[str], int],
    rng: np.random.Generator,
) -> list[LoadRequest]:
    """`number` requests of the same lengths and different texts."""
    return [
        LoadRequest("", None, exact_text(input_tokens, count, rng), output_tokens)
        for _ in range(number)
    ]
