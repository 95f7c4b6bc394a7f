"""Texts of a continual pre-training experiment: cut into documents, some of them held out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ..training.continual.source import Source

MAX_CHARACTERS = 4000
HELD_OUT_EVERY = 20


def split_text(source: Source, train: Path, held_out: Path) -> None:
    """Write the source's documents as JSON lines, every 20th of them to `held_out`.

    Documents of more than 4000 characters are cut at line ends, so that a source of a few books has
    documents to hold out. Held-out parts of a book are near to its training text: the losses
    compare arms, not models elsewhere.
    """
    with train.open("w", encoding="utf-8") as most, held_out.open("w", encoding="utf-8") as few:
        parts = (part for text, _ in source.documents() for part in cut(text))
        for number, part in enumerate(parts):
            file = few if number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else most
            file.write(json.dumps({"text": part}, ensure_ascii=False) + "\n")


def cut(text: str) -> Iterator[str]:
    """Parts of at most 4000 characters that end with a line, as far as lines are no longer."""
    part = ""
    for line in text.splitlines(keepends=True):
        if part and len(part) + len(line) > MAX_CHARACTERS:
            yield part
            part = ""
        part += line
    if part.strip():
        yield part
