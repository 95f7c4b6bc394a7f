"""Reading records, choosing a part of them, and the texts that each method learns."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from gistserve.training.records import DataError
from gistserve.training.step_by_step.data import (
    Annotated,
    Fields,
    check_references,
    nested_subset,
    read_annotated,
)
from gistserve.training.step_by_step.tasks import (
    LABEL,
    RATIONALE,
    Method,
    read_answer,
    task_texts,
)
from hypothesis import given
from hypothesis import strategies as st


def write(path: Path, *records: Any) -> str:
    path.write_text("".join(f"{json.dumps(r)}\n" for r in records), encoding="utf-8")
    return str(path)


def test_records(tmp_path: Path) -> None:
    place = write(
        tmp_path / "a.jsonl",
        {"input": " q ", "label": "a", "llm_label": "b", "rationale": "because "},
        {"input": "q2", "label": 3, "llm_label": "", "rationale": None},
    )
    assert read_annotated(place, Fields()) == [
        Annotated("q", "a", "b", "because"),
        Annotated("q2", "3", None, None),
    ]


def test_fields_and_template(tmp_path: Path) -> None:
    place = write(
        tmp_path / "a.jsonl", {"premise": "p", "hypothesis": "h", "teacher": "yes", "why": "w"}
    )
    fields = Fields("premise: {premise}\nhypothesis: {hypothesis}", "gold", "teacher", "why")
    (item,) = read_annotated(place, fields)
    assert item == Annotated("premise: p\nhypothesis: h", None, "yes", "w")
    assert item.reference == "yes"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "q"}, r"a.jsonl:1: input_template '{input}' does not fit .*fields are text"),
        ({"input": " "}, "a.jsonl:1: the input is empty"),
        ({"input": "q", "label": ["a"]}, r"a.jsonl:1: the field label must be text or a number"),
        ({"input": "q", "label": True}, "must be text or a number"),
    ],
)
def test_errors_name_the_line(record: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_annotated(write(tmp_path / "a.jsonl", record), Fields())


def test_a_set_to_measure_on_needs_references(tmp_path: Path) -> None:
    items = [Annotated("q", "a", None, None), Annotated("q", None, None, "r")]
    with pytest.raises(DataError, match=r"dev\.jsonl: 1 of 2 records have neither"):
        check_references(items, "dev.jsonl")
    with pytest.raises(DataError, match="holds no example"):
        read_annotated(write(tmp_path / "empty.jsonl"), Fields())


@given(
    count=st.integers(1, 60),
    seed=st.integers(0, 9),
    fractions=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=4),
)
def test_smaller_parts_lie_within_larger_ones(
    count: int, seed: int, fractions: list[float]
) -> None:
    items = list(range(count))
    parts = [nested_subset(items, fraction, seed) for fraction in sorted(fractions)]
    for fraction, part in zip(sorted(fractions), parts, strict=True):
        assert len(part) == max(1, round(fraction * count))
        assert part == sorted(set(part))
    for smaller, larger in pairwise(parts):
        assert set(smaller) <= set(larger)
    assert nested_subset(items, 1.0, seed) == items


def test_another_seed_chooses_others() -> None:
    items = list(range(100))
    assert nested_subset(items, 0.25, 1) == nested_subset(items, 0.25, 1)
    assert nested_subset(items, 0.25, 1) != nested_subset(items, 0.25, 2)


FULL = Annotated("q", "gold", "said", "because")
BARE = Annotated("q", "a", None, None)
UNSURE = Annotated("q", "a", None, "r")


@pytest.mark.parametrize(
    ("item", "method", "labels", "expected"),
    [
        (FULL, "standard", "gold", [(LABEL, "q", "gold")]),
        (FULL, "standard", "teacher", [(LABEL, "q", "said")]),
        (FULL, "single_task", "gold", [(LABEL, "q", "because So the answer is gold")]),
        (
            FULL,
            "step_by_step",
            "teacher",
            [(LABEL, "[label] q", "said"), (RATIONALE, "[rationale] q", "because")],
        ),
        (BARE, "step_by_step", "gold", [(LABEL, "[label] q", "a")]),
        (BARE, "single_task", "gold", [(LABEL, "q", "So the answer is a")]),
        (UNSURE, "step_by_step", "teacher", [(RATIONALE, "[rationale] q", "r")]),
        (UNSURE, "single_task", "teacher", []),
    ],
)  # fmt: skip
def test_what_is_learned(item: Annotated, method: Method, labels: Any, expected: Any) -> None:
    assert task_texts(item, method, labels) == expected


label_texts = st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=1)


@given(rationale=label_texts, label=label_texts)
def test_a_label_comes_back_from_a_single_text(rationale: str, label: str) -> None:
    item = Annotated("q", label.strip() or "a", None, f"{rationale} So the answer is no.")
    ((_, _, target),) = task_texts(item, "single_task", "gold")
    assert read_answer(target, "single_task") == item.label
    assert read_answer(f" {label} ", "standard") == label.strip()


def test_a_text_without_an_answer_is_not_read() -> None:
    assert read_answer("because of this and", "single_task") is None
    assert read_answer("because of this and", "step_by_step") == "because of this and"
