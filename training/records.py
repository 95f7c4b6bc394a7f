"""Records of a data set: from a file, from the hub, or made up here.

A place is a JSONL file (one object a line; `.csv` with a header works as well), or
`hub:OWNER/NAME[/CONFIGURATION]:SPLIT` for a set of the Hugging Face hub, which needs the library
`datasets`, or `example:NAME:SPLIT` for a set that is made up here (example_data.py).
"""

import csv
import importlib
import json
import random
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .example_data import SCHEME, example_records

HUB = "hub:"


class DataError(ValueError):
    """Data that cannot be used; the message names file and line."""


def read_records(place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each record of `place` stands, and its fields. Raises DataError."""
    if place.startswith(HUB):
        yield from _hub_records(place)
        return
    if place.startswith(SCHEME):
        yield from _example_records(place)
        return
    try:
        with Path(place).open(encoding="utf-8", newline="") as file:
            if place.endswith(".csv"):
                for number, row in enumerate(csv.DictReader(file), start=2):
                    yield f"{place}:{number}", dict(row)
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{place}:{number}", _json_object(line, f"{place}:{number}")
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is not UTF-8: {error}") from error


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(record).__name__}")
    return record


def _example_records(place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    name, _, split = place.removeprefix(SCHEME).partition(":")
    try:
        records = example_records(name, split)
    except ValueError as error:
        raise DataError(str(error)) from error
    for number, record in enumerate(records):
        yield f"{place}[{number}]", record


def _hub_records(place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    name, _, split = place.removeprefix(HUB).partition(":")
    parts = name.split("/")
    if not split or len(parts) not in (2, 3):
        raise DataError(f"{place!r} is not of the form hub:OWNER/NAME[/CONFIGURATION]:SPLIT")
    if find_spec("datasets") is None:
        raise DataError(f"{place} needs the library datasets: pip install datasets")
    load = importlib.import_module("datasets").load_dataset
    try:
        rows = load("/".join(parts[:2]), *parts[2:], split=split)
    except Exception as error:  # of datasets, huggingface_hub, httpx, fsspec, ...
        raise DataError(f"{place} cannot be loaded: {error}") from error
    for number, row in enumerate(rows):
        yield f"{place}[{number}]", row


def read_text(record: dict[str, Any], field: str, where: str) -> str:
    """The text in a field of a record. Raises DataError where there is none."""
    if field not in record:
        raise DataError(f"{where}: the field {field} is missing; there are {', '.join(record)}")
    value = record[field]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: the field {field} must be text, got {value!r}")
    return value


def hold_out(examples: list[Any], share: float, seed: int) -> tuple[list[Any], list[Any]]:
    """A random `share` of the examples apart from the rest, each in the order given.

    Raises DataError where one of the two would be empty.
    """
    count = round(len(examples) * share)
    if not 0 < count < len(examples):
        raise DataError(
            f"a validation_share of {share} of {len(examples)} examples leaves validation or "
            "training without any; give validation_data"
        )
    chosen = set(random.Random(seed).sample(range(len(examples)), count))
    rest = [example for i, example in enumerate(examples) if i not in chosen]
    return rest, [examples[i] for i in sorted(chosen)]
