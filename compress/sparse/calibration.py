"""Text that shows a model what its layers' inputs look like."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import SparsityError


def calibration_tokens(
    path: Path, tokenizer: Any, *, samples: int = 128, length: int = 2048
) -> Tensor:
    """Token ids int64 `[S, T]` of pieces spread evenly over a file; S <= samples, T <= length.

    The file holds plain text (UTF-8), or with the ending `.jsonl` one object with a "text" a line.
    A text of fewer than `length` tokens makes one shorter piece; what remains after the last whole
    piece is not used. Raises SparsityError for a file that cannot be read or has no text.
    """
    tokens: list[int] = []
    for text in _texts(Path(path)):
        tokens += tokenizer(text, verbose=False)["input_ids"]
    length = min(length, len(tokens))
    if length < 2:
        raise SparsityError(
            f"{path} has only {len(tokens)} tokens of text; calibration needs some pages of it"
        )
    pieces = torch.tensor(tokens[: len(tokens) // length * length]).view(-1, length)
    chosen = torch.linspace(0, len(pieces) - 1, min(samples, len(pieces))).round().long()
    return pieces[chosen]


def _texts(path: Path) -> list[str]:
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SparsityError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SparsityError(f"{path} is not UTF-8 text: {error}") from error
    if path.suffix != ".jsonl":
        return [content]
    return [
        _text_of(line, f"{path}, line {number}")
        for number, line in enumerate(content.splitlines(), start=1)
        if line.strip()
    ]


def _text_of(line: str, place: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise SparsityError(f"{place} is not valid JSON: {error}") from error
    text = entry.get("text") if isinstance(entry, dict) else None
    if not isinstance(text, str):
        raise SparsityError(f'{place} is not an object with a "text"')
    return text
