"""Measures of what a student writes."""

from collections.abc import Sequence

from ..metrics import rouge_l, words


def mean_rouge_l(texts: Sequence[str], references: Sequence[str]) -> float:
    """Mean ROUGE-L F1 in [0, 1]."""
    scores = [rouge_l(text, other) for text, other in zip(texts, references, strict=True)]
    return sum(scores) / len(scores)


def distinct_n(texts: Sequence[str], n: int = 4) -> float:
    """Share in [0, 1] of different ones among all runs of n words (Li et al., 2016).

    1 where no text has n words.
    """
    grams = [
        tuple(tokens[start : start + n])
        for tokens in map(words, texts)
        for start in range(len(tokens) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 1.0
