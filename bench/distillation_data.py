"""Prompts and responses cut out of stories: a sentence, and the two that follow it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PRETRAINING_STORIES = 2600
VALIDATION_STORIES = 80
TEST_PAIRS = 400

_GAP = re.compile(r'(?<=[.!?"])\s+(?=["A-Z])')
_PROMPT_CHARACTERS = (15, 90)
_RESPONSE_CHARACTERS = (30, 180)


def prepare_data(stories: Path, output: Path) -> None:
    """Write what the runs read, from `stories` (train.jsonl and valid.jsonl, field `text`).

    `pretraining.jsonl` has the first stories of the training split whole; the others of it are cut
    into pairs for `train.jsonl` and `validation.jsonl`, those of the other split for `test.jsonl`,
    so that no story is in two of the files.
    """
    output.mkdir(parents=True, exist_ok=True)
    texts = _read(stories / "train.jsonl")
    first, last = PRETRAINING_STORIES, len(texts) - VALIDATION_STORIES
    if first >= last:
        raise ValueError(
            f"{stories}: train.jsonl has {len(texts)} stories, fewer than the "
            f"{first + VALIDATION_STORIES} that are not for training pairs"
        )
    _write(output / "pretraining.jsonl", ({"text": text} for text in texts[:first]))
    _write(output / "train.jsonl", _pairs(texts[first:last]))
    _write(output / "validation.jsonl", _pairs(texts[last:]))
    test = list(_pairs(_read(stories / "valid.jsonl")))
    _write(output / "test.jsonl", test[:: max(1, len(test) // TEST_PAIRS)][:TEST_PAIRS])


def sentence_pairs(story: str) -> Iterator[tuple[str, str]]:
    """Every third sentence with the two after it; the response keeps the space before it.

    Pairs that are much shorter or longer than most are left out.
    """
    sentences = _GAP.split(" ".join(story.split()))
    for start in range(0, len(sentences) - 2, 3):
        prompt, response = sentences[start], " " + " ".join(sentences[start + 1 : start + 3])
        if _within(prompt, _PROMPT_CHARACTERS) and _within(response, _RESPONSE_CHARACTERS):
            yield prompt, response


def _within(text: str, limits: tuple[int, int]) -> bool:
    return limits[0] <= len(text) <= limits[1]


def _pairs(stories: Iterable[str]) -> Iterator[dict[str, Any]]:
    for story in stories:
        for prompt, response in sentence_pairs(story):
            yield {"prompt": prompt, "response": response}


def _read(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def _write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
