"""How right answers are, for each kind of label."""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from ..metrics import accuracy
from . import equation

Answers = Literal["text", "choices", "equation"]

_CHOICE = re.compile(r"^\s*\([a-z]\)\s*(.+?)\s*$", re.MULTILINE)
_NOT_READ = "\N{REPLACEMENT CHARACTER}"


def score_answers(
    answers: Sequence[str | None], references: Sequence[str], sources: Sequence[str], kind: Answers
) -> dict[str, float]:
    """Shares in [0, 1] of all answers; an answer of None could not be read, and is wrong.

    `accuracy` is by equal text, but of an `equation` by equal value. `exact_match` (equations) is
    by equal spelling, normalised; `listed` (choices) is the share that says one of the input's
    choices at all, as in the line "(a) park". `unreadable` is the share of None.
    """
    texts = [_NOT_READ if answer is None else answer for answer in answers]
    measures: dict[str, float]
    if kind == "equation":
        measures = _equation_scores(texts, references)
    else:
        measures = {"accuracy": accuracy(texts, references)}
    if kind == "choices":
        listed = [text in choices(source) for text, source in zip(texts, sources, strict=True)]
        measures["listed"] = sum(listed) / len(listed)
    return measures | {"unreadable": sum(answer is None for answer in answers) / len(answers)}


def choices(source: str) -> list[str]:
    """What an input lists as possible answers, one a line behind a letter in brackets."""
    return _CHOICE.findall(source)


def _equation_scores(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    return {
        "accuracy": accuracy([_value(a, "") for a in answers], [_value(r, r) for r in references]),
        "exact_match": accuracy(
            [equation.normalised(answer) or "" for answer in answers],
            [equation.normalised(reference) or reference for reference in references],
        ),
    }


def _value(text: str, otherwise: str) -> str:
    found: Fraction | None = equation.value(text)
    return otherwise if found is None else str(found)
