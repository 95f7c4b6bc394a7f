"""Small sets that are made up by rule: to try a trainer without any download.

`example:reviews:SPLIT` are short opinions labelled negative or positive, `example:weather:SPLIT`
forecasts as slots (in the form of E2E) with a sentence for each. `example:sums:SPLIT` are word
problems with their equation, and what a teacher that errs at times says about them (in the form of
distilling step-by-step's SVAMP).
SPLIT is train, validation or test; the same words always, and no input in two splits.
"""

import random
from collections.abc import Iterator
from itertools import product
from typing import Any

SCHEME = "example:"

_SUBJECTS = ("the film", "the play", "the story", "the music", "the cast", "the ending")
_GOOD = ("great", "funny", "moving", "lovely", "clever", "rich")
_BAD = ("dull", "weak", "boring", "awful", "silly", "flat")
_ADVERBS = ("", "really", "rather", "quite", "simply")
_CLOSINGS = ("", "from start to end", "for me", "this time")

_PLACES = ("Oslo", "Lima", "Cairo", "Quito", "Perth", "Dakar", "Turin", "Kyoto")
_DAYS = ("Monday", "Tuesday", "Friday", "Sunday")
_SKIES = ("rain", "sun", "snow", "fog")
_WINDS = ("calm", "light", "strong")
_OWNERS = ("Ana", "Ben", "Mia", "Tom")
_THINGS = ("apples", "coins")
_STORIES = {
    "+": ("gets {b} more {things}", "The {things} are put together"),
    "-": ("gives {b} {things} away", "Some of the {things} are gone"),
    "*": ("gets {b} times as many {things}", "The {things} are multiplied"),
}
_SIZES = {"train": 0.7, "validation": 0.15, "test": 0.15}


def example_records(name: str, split: str) -> list[dict[str, Any]]:
    """Records of `reviews`, `weather` or `sums`. ValueError for another name or split."""
    made = {"reviews": _reviews, "weather": _weather, "sums": _sums}
    if name not in made or split not in _SIZES:
        raise ValueError(
            f"{SCHEME}{name}:{split} is none of the examples: they are {', '.join(made)}, in the "
            f"splits {', '.join(_SIZES)}"
        )
    records = list(made[name]())
    random.Random(name).shuffle(records)
    start = 0
    for part, share in _SIZES.items():
        end = start + round(share * len(records))
        if part == split:
            return records[start:end]
        start = end
    raise AssertionError


def _reviews() -> Iterator[dict[str, Any]]:
    for subject, adverb, closing in product(_SUBJECTS, _ADVERBS, _CLOSINGS):
        for adjective in (*_GOOD, *_BAD):
            words = (subject, "was", adverb, adjective, closing, ".")
            label = "positive" if adjective in _GOOD else "negative"
            yield {"text": " ".join(filter(None, words)), "label": label}


def _weather() -> Iterator[dict[str, Any]]:
    for place, day, sky, wind in product(_PLACES, _DAYS, _SKIES, _WINDS):
        meaning = f"place[{place}], day[{day}], sky[{sky}], wind[{wind}]"
        text = f"On {day} {place} will have {sky} with {wind} wind."
        yield {"mr": meaning, "ref": text}


def _sums() -> Iterator[dict[str, Any]]:
    numbers = range(2, 10)
    problems = product(_OWNERS, _THINGS, _STORIES, numbers, numbers)
    for index, (owner, things, sign, a, b) in enumerate(problems):
        if sign == "-" and a < b:
            continue
        event, thought = (text.format(b=b, things=things) for text in _STORIES[sign])
        said = {"llm_label": f"{a} {sign} {b}", "rationale": f"{thought}: {a} {sign} {b}."}
        if index % 11 == 0:
            said["llm_label"] = f"{b} - {a}"
        if index % 17 == 0:
            said = {"llm_label": "", "rationale": ""}
        text = f"{owner} has {a} {things} and {event}. How many {things} are there?"
        yield {"input": text, "label": f"( {a}.0 {sign} {b}.0 )"} | said
