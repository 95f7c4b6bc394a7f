"""What a record tells: an input, its label, and what a teacher said about it.

    {"input": "...", "label": "...", "llm_label": "...", "rationale": "..."}

Where a set may lie is told in training/records.py. The fields can be renamed; the input is written
by a template of the record's fields, as in "premise: {premise} hypothesis: {hypothesis}". A label
or a rationale that is empty, null or absent is missing: the teacher gave none that could be read.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..records import DataError, read_records

Item = TypeVar("Item")


@dataclass(frozen=True)
class Annotated:
    """An input with what is known of it; None is missing."""

    source: str
    label: str | None
    teacher_label: str | None
    rationale: str | None

    @property
    def reference(self) -> str | None:
        """What an answer is scored against: the label, or where there is none the teacher's."""
        return self.label if self.label is not None else self.teacher_label


@dataclass(frozen=True)
class Fields:
    """Where a record has its parts."""

    input_template: str = "{input}"
    label: str = "label"
    teacher_label: str = "llm_label"
    rationale: str = "rationale"


def read_annotated(place: str, fields: Fields) -> list[Annotated]:
    """All records of `place`. Raises DataError naming place and line of whatever is wrong."""
    items = [_annotated(record, fields, where) for where, record in read_records(place)]
    if not items:
        raise DataError(f"{place} holds no example")
    return items


def check_references(items: Sequence[Annotated], place: str) -> None:
    """Raise DataError where an item of a set to measure on has nothing to compare answers with."""
    missing = sum(item.reference is None for item in items)
    if missing:
        raise DataError(
            f"{place}: {missing} of {len(items)} records have neither a label nor a teacher's "
            "label to score answers by; leave them out, or name the right fields"
        )


def nested_subset(items: Sequence[Item], fraction: float, seed: int) -> list[Item]:
    """A random `fraction` of the items, at least one, in the order given.

    With one seed, every smaller fraction lies within every larger one.
    """
    order = list(range(len(items)))
    random.Random(seed).shuffle(order)
    chosen = order[: max(1, round(fraction * len(items)))]
    return [items[index] for index in sorted(chosen)]


def _annotated(record: dict[str, Any], fields: Fields, where: str) -> Annotated:
    try:
        source = fields.input_template.format_map(record)
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(
            f"{where}: input_template {fields.input_template!r} does not fit the record ({error}); "
            f"its fields are {', '.join(record)}"
        ) from error
    if not source.strip():
        raise DataError(f"{where}: the input is empty")
    names = (fields.label, fields.teacher_label, fields.rationale)
    return Annotated(source.strip(), *(_optional(record, name, where) for name in names))


def _optional(record: dict[str, Any], name: str, where: str) -> str | None:
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{where}: the field {name} must be text or a number, got {value!r}")
    return str(value).strip() or None
