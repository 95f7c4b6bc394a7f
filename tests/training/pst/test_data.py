"""Reading records, and the errors that name the line."""

import json
from pathlib import Path
from typing import Any

import pytest
from gistserve.training.pst.batch import (
    Example,
    classification_examples,
    collate,
    text_examples,
)
from gistserve.training.pst.data import (
    DataText,
    LabelledText,
    check_labels,
    label_names,
    linearise_mr,
    linearise_triples,
    read_data_texts,
    read_labelled,
)
from gistserve.training.records import DataError
from gistserve.training.text_ids import IGNORED

from .tiny_models import make_tokenizer


def write(path: Path, *records: Any) -> str:
    lines = (r if isinstance(r, str) else json.dumps(r) for r in records)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def test_labelled_texts(tmp_path: Path) -> None:
    place = write(
        tmp_path / "a.jsonl", {"text": "good", "label": "yes"}, "", {"text": "b", "label": 0}
    )
    assert read_labelled(place) == [LabelledText("good", None, "yes"), LabelledText("b", None, "0")]
    place = write(tmp_path / "b.jsonl", {"premise": "p", "hypothesis": "h", "gold": 2})
    assert read_labelled(place, "premise", "hypothesis", "gold") == [LabelledText("p", "h", "2")]


def test_a_table_is_read_as_well(tmp_path: Path) -> None:
    (tmp_path / "e2e.csv").write_text('mr,ref\n"name[A], area[city centre]","A, in town."\n')
    assert read_data_texts(str(tmp_path / "e2e.csv")) == [
        DataText("name : A | area : city centre", ("A, in town.",))
    ]


def test_references_of_one_input_are_gathered(tmp_path: Path) -> None:
    place = write(
        tmp_path / "a.jsonl",
        {"mr": "name[A]", "ref": "one"},
        {"mr": "name[B], customer rating[5 out of 5]", "ref": "two"},
        {"mr": "name[A]", "ref": "three"},
        {"triples": [["A", "is", "B"], ["B", "is", "C"]], "refs": ["four", "five"], "source": "x"},
        {"input": "six", "target": "seven"},
    )
    assert read_data_texts(place) == [
        DataText("name : A", ("one", "three")),
        DataText("name : B | customer rating : 5 out of 5", ("two",)),
        DataText("A : is : B | B : is : C", ("four", "five")),
        DataText("six", ("seven",)),
    ]


@pytest.mark.parametrize("text", ["", "name", "name[A] area[B]", "name[A], ", "name[A"])
def test_other_meanings_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no list of slot"):
        linearise_mr(text)


@pytest.mark.parametrize("triples", [[], "abc", [["a", "b"]], ["abc"]])
def test_other_triples_are_refused(triples: Any) -> None:
    with pytest.raises(ValueError, match="triple"):
        linearise_triples(triples)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "a.jsonl:2: not valid JSON"),
        ([1], "a.jsonl:2: expected a JSON object, got list"),
        ({"label": "yes"}, "a.jsonl:2: the field text is missing"),
        ({"text": " ", "label": "yes"}, "a.jsonl:2: the field text must be text"),
        ({"text": "b"}, "a.jsonl:2: the field label must be a label"),
        ({"text": "b", "label": 0.5}, "a.jsonl:2: the field label must be a label, got 0.5"),
    ],
)
def test_errors_name_the_line(record: Any, message: str, tmp_path: Path) -> None:
    place = write(tmp_path / "a.jsonl", {"text": "a", "label": "no"}, record)
    with pytest.raises(DataError, match=message):
        read_labelled(place)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"mr": "nonsense", "ref": "a"}, "no list of slot"),
        ({"mr": "name[A]"}, "needs a text as its reference"),
        ({"triples": [["a", "b", "c"]], "refs": []}, "needs a text as its reference"),
        ({"words": "a"}, "needs mr and ref, triples and refs, or input and target; it has words"),
    ],
)
def test_errors_of_data_texts(record: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_data_texts(write(tmp_path / "a.jsonl", record))


def test_empty_and_missing_places(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no example"):
        read_labelled(write(tmp_path / "a.jsonl", "", " "))
    with pytest.raises(DataError, match="cannot be read"):
        read_labelled(str(tmp_path / "none.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(DataError, match="not UTF-8"):
        read_labelled(str(tmp_path / "latin.jsonl"))
    with pytest.raises(DataError, match="none of the examples"):
        read_labelled("example:films:train")
    with pytest.raises(DataError, match="not of the form hub:"):
        read_labelled("hub:glue")


def test_example_sets_share_no_input() -> None:
    for name, read in (("reviews", read_labelled), ("weather", read_data_texts)):
        splits = [set(read(f"example:{name}:{s}")) for s in ("train", "validation", "test")]  # type: ignore[operator]
        assert all(len(split) > 40 for split in splits)
        assert len(set.union(*splits)) == sum(map(len, splits))


def test_labels() -> None:
    def texts(*labels: str) -> list[LabelledText]:
        return [LabelledText("a", None, label) for label in labels]

    assert label_names(texts("10", "2", "2")) == ["2", "10"]
    assert label_names(texts("b", "a", "10")) == ["10", "a", "b"]
    check_labels(texts("a"), ["a", "b"], "dev.jsonl")
    with pytest.raises(DataError, match=r"dev.jsonl has the label 'c'.*'a', 'b'"):
        check_labels(texts("a", "c"), ["a", "b"], "dev.jsonl")


def test_a_causal_batch_asks_for_the_answer_and_its_end_alone() -> None:
    tokenizer = make_tokenizer()
    (example,) = text_examples(
        [DataText("day : Monday", ("On Monday",))], tokenizer, 64, causal=True
    )
    assert tokenizer.decode(example["input_ids"]) == "day : Monday =>"
    assert tokenizer.decode(example["target"]) == " On Monday<end>"
    short = Example(input_ids=[7], target=[8, 1])
    batch = collate([example, short], "causal", pad_id=0)
    width = len(example["input_ids"]) + 3
    assert batch["labels"][0].tolist() == [IGNORED] * (width - 3) + example["target"]
    assert batch["input_ids"][1].tolist() == [7, 8, 1] + [0] * (width - 3)
    assert batch["labels"][1].tolist() == [IGNORED, 8, 1] + [IGNORED] * (width - 3)
    assert batch["attention_mask"].sum(1).tolist() == [width, 3]


def test_a_seq2seq_batch_shifts_its_answers() -> None:
    examples = [Example(input_ids=[5, 6], target=[7, 8, 1]), Example(input_ids=[5], target=[9, 1])]
    batch = collate(examples, "seq2seq", pad_id=0, start_id=4)
    assert batch["decoder_input_ids"].tolist() == [[4, 7, 8], [4, 9, 0]]
    assert batch["labels"].tolist() == [[7, 8, 1], [9, 1, IGNORED]]


def test_classes() -> None:
    tokenizer = make_tokenizer()
    texts = [LabelledText("the film was great", None, "b"), LabelledText("the film", None, "a")]
    long, short = classification_examples(texts, ["a", "b"], tokenizer, max_tokens=4)
    assert tokenizer.decode(long["input_ids"]) == "<end>the film was"  # cut, with a first token
    assert (long["target"], short["target"]) == (1, 0)
    batch = collate([long, short], "classification", pad_id=0)
    assert batch["labels"].tolist() == [1, 0]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_answers_that_are_too_long() -> None:
    texts = [DataText("day : Monday", ("On Monday", "On Monday Oslo will have rain"))]
    assert len(text_examples(texts, make_tokenizer(), 8, causal=True)) == 1
    with pytest.raises(DataError, match="all 2 examples are over 3 tokens"):
        text_examples(texts, make_tokenizer(), 3, causal=True)
