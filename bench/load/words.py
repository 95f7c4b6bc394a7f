"""Synthetic text of a wanted number of tokens, for a tokenizer that is only known by its server."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_TEXT = """
time year people way day man thing woman life child world school state family student group country
problem hand part place case week company system program question work night point home water room
mother area money story fact month lot right study book eye job word business issue side kind head
house service friend father power hour game line end member law car city name team minute idea body
back parent face level office door health person art war history party result change morning reason
big small good new first last long great little own other old high different large next early young
go see take come want look use find give tell ask seem feel try leave call play run move live hold
"""
WORDS = _TEXT.split()


def random_text(num_words: int, rng: np.random.Generator) -> str:
    """Common English words in random order; the same generator gives the same text."""
    return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), num_words))


@dataclass(frozen=True)
class TokensPerWord:
    """How a server's tokenizer splits random words, as two requests' usage told it."""

    ratio: float

    @classmethod
    def from_counts(cls, words: tuple[int, int], tokens: tuple[int, int]) -> TokensPerWord:
        """From the prompt tokens of two texts; what the template adds to both falls out."""
        return cls((tokens[1] - tokens[0]) / (words[1] - words[0]))

    def text(self, num_tokens: int, rng: np.random.Generator) -> str:
        """Random words of about `num_tokens` tokens."""
        return random_text(max(1, round(num_tokens / self.ratio)), rng)
