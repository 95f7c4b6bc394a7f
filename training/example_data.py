"""Small sets that are made up by rule: to try a trainer without any download.

`example:reviews:SPLIT` are short opinions labelled negative or positive, `example:weather:SPLIT`
forecasts as slots (in the form of E2E) with a sentence for each.
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
_SIZES = {"train": 0.7, "validation": 0.15, "test": 0.15}


def example_records(name: str, split: str) -> list[dict[str, Any]]:
    """Records of `reviews` or `weather`. ValueError for another name or split."""
    made = {"reviews": _reviews, "weather": _weather}
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
