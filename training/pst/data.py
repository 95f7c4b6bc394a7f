"""Training data of PST: what each task reads in a record.

Where a set may lie is told in training/records.py. Its records are

    {"text": "...", "label": "..."}                      classification (fields can be renamed)
    {"mr": "name[Alimentum], area[city centre]", "ref": "..."}     E2E: one reference a line
    {"triples": [["subject", "relation", "object"]], "refs": ["...", "..."]}            DART
    {"input": "...", "target": "..."}                    any other text from text

Texts of one input are gathered as its references.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..records import DataError, read_records, read_text

_SLOT = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]\s*")


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
    for where, record in read_records(place):
        text = read_text(record, text_field, where)
        pair = None if pair_field is None else read_text(record, pair_field, where)
        label = record.get(label_field)
        if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
            raise DataError(f"{where}: the field {label_field} must be a label, got {label!r}")
        examples.append(LabelledText(text, pair, str(label)))
    return _not_empty(examples, place)


def read_data_texts(place: str) -> list[DataText]:
    """Inputs in the order of their first line, with all their references. Raises DataError."""
    gathered: dict[str, list[str]] = {}
    for where, record in read_records(place):
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
        return read_text(record, "input", where), [read_text(record, "target", where)]
    raise DataError(
        f"{where}: a record needs mr and ref, triples and refs, or input and target; it has "
        f"{', '.join(record) or 'nothing'}"
    )


def _references(texts: Any) -> list[str]:
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t for t in texts):
        raise ValueError(f"a record needs a text as its reference, got {texts!r}")
    return texts


def _not_empty(examples: list[Any], place: str) -> list[Any]:
    if not examples:
        raise DataError(f"{place} holds no example")
    return examples
