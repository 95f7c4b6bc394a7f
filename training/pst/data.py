"""Training data of PST: records from a file or from the hub, and what each task reads in them.

A place is a JSONL file (one object a line; `.csv` with a header works as well), or
`hub:OWNER/NAME[/CONFIGURATION]:SPLIT` for a set of the Hugging Face hub, which needs the library
`datasets`, or `example:NAME:SPLIT` for a set that is made up here (example.py). Its records are

    {"text": "...", "label": "..."}                      classification (fields can be renamed)
    {"mr": "name[Alimentum], area[city centre]", "ref": "..."}     E2E: one reference a line
    {"triples": [["subject", "relation", "object"]], "refs": ["...", "..."]}            DART
    {"input": "...", "target": "..."}                    any other text from text

Texts of one input are gathered as its references.
"""

import csv
import importlib
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .example import SCHEME, example_records

HUB = "hub:"
_SLOT = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]\s*")


class DataError(ValueError):
    """Data that cannot be used; the message names file and line."""


@dataclass(frozen=True)
class LabelledText:
    """A text, perhaps a second one beside it, and its class."""

    text: str
    pair: str | None
    label: str


@dataclass(frozen=True)
class DataText:
    """An input written out as text, and the texts that say it."""

    source: str
    references: tuple[str, ...]


def read_labelled(
    place: str, text_field: str = "text", pair_field: str | None = None, label_field: str = "label"
) -> list[LabelledText]:
    """Texts with labels. Raises DataError naming place and line of whatever is wrong."""
    examples = []
    for where, record in _records(place):
        text = _text(record, text_field, where)
        pair = None if pair_field is None else _text(record, pair_field, where)
        label = record.get(label_field)
        if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
            raise DataError(f"{where}: the field {label_field} must be a label, got {label!r}")
        examples.append(LabelledText(text, pair, str(label)))
    return _not_empty(examples, place)


def read_data_texts(place: str) -> list[DataText]:
    """Inputs in the order of their first line, with all their references. Raises DataError."""
    gathered: dict[str, list[str]] = {}
    for where, record in _records(place):
        source, references = _data_text(record, where)
        gathered.setdefault(source, []).extend(references)
    examples = [DataText(source, tuple(texts)) for source, texts in gathered.items()]
    return _not_empty(examples, place)


def label_names(examples: Iterable[LabelledText]) -> list[str]:
    """Labels in a fixed order: as numbers where all are, else by name."""
    names = {example.label for example in examples}
    if all(name.lstrip("-").isdigit() for name in names):
        return sorted(names, key=int)
    return sorted(names)


def check_labels(examples: Iterable[LabelledText], known: Iterable[str], place: str) -> None:
    """Raise DataError for a label that is not among the `known`."""
    names = list(known)
    for example in examples:
        if example.label not in names:
            raise DataError(
                f"{place} has the label {example.label!r}, but the labels are "
                f"{', '.join(map(repr, names))}; correct the data, or give a model and training "
                "data that know it"
            )


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


def linearise_mr(meaning: str) -> str:
    """E2E's `name[Alimentum], area[city centre]` as `name : Alimentum | area : city centre`.

    ValueError for text of any other form.
    """
    slots = _SLOT.findall(meaning)
    if not slots or ",".join(f"{n}[{v}]" for n, v in slots).replace(" ", "") != meaning.replace(
        " ", ""
    ):
        raise ValueError(f"{meaning!r} is no list of slot[value]")
    return " | ".join(f"{name.strip()} : {value.strip()}" for name, value in slots)


def linearise_triples(triples: Any) -> str:
    """DART's triples as `subject : relation : object | ...`. ValueError for anything else."""
    if not isinstance(triples, list) or not triples:
        raise ValueError("triples must be a list that is not empty")
    for triple in triples:
        if not isinstance(triple, list) or len(triple) != 3:
            raise ValueError(f"a triple must be [subject, relation, object], got {triple!r}")
    return " | ".join(" : ".join(str(part) for part in triple) for triple in triples)


def _data_text(record: dict[str, Any], where: str) -> tuple[str, list[str]]:
    try:
        if "triples" in record:
            return linearise_triples(record["triples"]), _references(record.get("refs"))
        for field, reference in (("mr", "ref"), ("meaning_representation", "human_reference")):
            if field in record:
                return linearise_mr(str(record[field])), _references([record.get(reference)])
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if "input" in record:
        return _text(record, "input", where), [_text(record, "target", where)]
    raise DataError(
        f"{where}: a record needs mr and ref, triples and refs, or input and target; it has "
        f"{', '.join(record) or 'nothing'}"
    )


def _references(texts: Any) -> list[str]:
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t for t in texts):
        raise ValueError(f"a record needs a text as its reference, got {texts!r}")
    return texts


def _text(record: dict[str, Any], field: str, where: str) -> str:
    if field not in record:
        raise DataError(f"{where}: the field {field} is missing; there are {', '.join(record)}")
    value = record[field]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: the field {field} must be text, got {value!r}")
    return value


def _not_empty(examples: list[Any], place: str) -> list[Any]:
    if not examples:
        raise DataError(f"{place} holds no example")
    return examples


def _records(place: str) -> Iterator[tuple[str, dict[str, Any]]]:
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
