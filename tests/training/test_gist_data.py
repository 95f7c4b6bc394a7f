"""Gist training data: rendering, gathering, batches, and the errors of bad files."""

from pathlib import Path

import pytest
import torch
from gistserve.training.gist.batch import IGNORED, GistExample, Turn, collate
from gistserve.training.gist.data import Limits, Renderer, load_examples
from gistserve.training.records import DataError

from .tiny_run import TEMPLATE, make_tokenizer, write_data

ROOM = Limits(64, 2)


def text(ids: list[int]) -> str:
    return " ".join(make_tokenizer().convert_ids_to_tokens(ids))


def load(path: Path, records: list[dict], limits: Limits = ROOM, template=TEMPLATE):
    return load_examples(write_data(path, records), make_tokenizer(template), limits)


def test_chat_template_splits_into_prompt_input_and_output(tmp_path: Path) -> None:
    record = {"prompt": "say red", "input": "ask ?", "output": "red"}
    (example,) = load(tmp_path / "data.jsonl", [record])
    assert text(example.prompt_ids) == "<system> say red <end>"
    (turn,) = example.turns
    assert text(turn.input_ids) == "<user> ask ? <end> <assistant>"
    assert text(turn.output_ids) == "red <end>"


def test_leading_messages_are_a_prompt_too(tmp_path: Path) -> None:
    prompt = [{"role": "system", "content": "say red"}, {"role": "user", "content": "ask"}]
    (example,) = load(tmp_path / "data.jsonl", [{"prompt": prompt, "input": "?", "output": "red"}])
    assert text(example.prompt_ids) == "<system> say red <end> <user> ask <end>"
    with pytest.raises(DataError, match="no chat template"):
        record = {"prompt": prompt, "input": "?", "output": "red"}
        load(tmp_path / "data.jsonl", [record], template=None)


def test_without_a_template_texts_follow_each_other(tmp_path: Path) -> None:
    record = {"prompt": "say red", "input": "ask ?", "output": "red"}
    (example,) = load(tmp_path / "data.jsonl", [record], template=None)
    assert text(example.prompt_ids) == "say red"
    assert text(example.turns[0].input_ids) == "ask ?"
    assert text(example.turns[0].output_ids) == "red <end>"
    renderer = Renderer(make_tokenizer(), use_chat_template=False)
    assert renderer.prompt("say red") == example.prompt_ids


def test_answers_end_with_the_end_token_and_not_behind_it() -> None:
    template = TEMPLATE.replace("<end>\n", "<end> white white ")
    renderer = Renderer(make_tokenizer(template))
    prompt_ids = renderer.prompt("say red")
    [turn] = renderer.turns("say red", prompt_ids, [("ask", "red")])
    assert text(turn.output_ids) == "red <end>"


def test_lines_of_one_prompt_are_gathered_and_split(tmp_path: Path) -> None:
    records = [
        {"prompt": "say red", "input": "ask", "output": "red"},
        {"prompt": "say blue", "input": "ask", "output": "blue"},
        {"prompt": "say red", "turns": [{"input": "?", "output": "red"}] * 2},
    ]
    examples = load(tmp_path / "data.jsonl", records)
    assert [len(example.turns) for example in examples] == [3, 1]
    parts = load(tmp_path / "data.jsonl", records, Limits(64, 2, turns_per_prompt=2))
    assert [len(part.turns) for part in parts] == [2, 1, 1]
    assert parts[0].prompt_ids == parts[1].prompt_ids


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages | length }} " + TEMPLATE,  # the prompt's rendering depends on what follows
        TEMPLATE.replace("<assistant> ", "<assistant> say "),  # the answered form lacks "say"
        "{{ raise_exception('system role not supported') }}",
    ],
)
def test_templates_that_break_the_prefix_are_refused(template: str, tmp_path: Path) -> None:
    messages = ["as a prefix", "differently", "system role not supported"]
    record = {"prompt": "say red", "input": "ask ?", "output": "red"}
    tokenizer = make_tokenizer(template)
    for number in "123":
        tokenizer.add_tokens(number)
    path = write_data(tmp_path / "data.jsonl", [record])
    with pytest.raises(DataError, match=r"data\.jsonl:1: ") as caught:
        load_examples(path, tokenizer, ROOM)
    assert sum(message in str(caught.value) for message in messages) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"', r":2: not valid JSON"),
        ("[1]", ":2: expected a JSON object, got list"),
        ('{"input": "a", "output": "b"}', ":2: the field prompt must be non-empty"),
        ('{"prompt": "", "input": "a", "output": "b"}', ":2: the field prompt"),
        ('{"prompt": ["a"], "input": "a", "output": "b"}', ":2: the field prompt must hold mess"),
        ('{"prompt": "say", "output": "b"}', ":2: the field input is missing"),
        ('{"prompt": "say", "input": "a"}', ":2: the field output is missing"),
        ('{"prompt": "say", "input": 3, "output": "b"}', ":2: the field input must be text, got 3"),
        ('{"prompt": "say", "turns": []}', ":2: the field turns must be a non-empty list"),
        ('{"prompt": "say", "turns": ["a"]}', ":2: each of turns must be an object"),
        (
            '{"prompt": "' + "say " * 80 + '", "input": "ask", "output": "red"}',
            ":2: prompt, gist tokens and turn take 90 tokens, over the limit of 64",
        ),
    ],
)
def test_bad_lines_are_named(line: str, message: str, tmp_path: Path) -> None:
    path = write_data(tmp_path / "data.jsonl", [{"prompt": "say", "input": "a", "output": "b"}])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=message):
        load_examples(path, make_tokenizer(), ROOM)


def test_bad_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with pytest.raises(DataError, match="cannot be read"):
        load_examples(path, make_tokenizer(), ROOM)
    path.write_text("\n\n")
    with pytest.raises(DataError, match="no usable example"):
        load_examples(path, make_tokenizer(), ROOM)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match="not UTF-8"):
        load_examples(path, make_tokenizer(), ROOM)


def test_too_long_turns_can_be_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = [
        {"prompt": "say", "input": "ask " * 80, "output": "red"},
        {"prompt": "say", "input": "ask", "output": "red"},
    ]
    (example,) = load(tmp_path / "data.jsonl", records, Limits(64, 2, skip_too_long=True))
    assert len(example.turns) == 1
    assert "1 turn(s) over 64 tokens skipped" in caplog.text


def test_labels_are_the_next_tokens() -> None:
    examples = [
        GistExample([1, 2, 3], [Turn([4, 5], [6, 7]), Turn([8], [9])]),
        GistExample([10], [Turn([11], [12])]),
    ]
    batch = collate(examples, pad_id=0)
    none = IGNORED
    assert batch["prompt_ids"].tolist() == [[1, 2, 3], [10, 0, 0]]
    assert batch["prompt_lengths"].tolist() == [3, 1]
    assert batch["turn_prompts"].tolist() == [0, 0, 1]
    assert batch["turn_ids"].tolist() == [[4, 5, 6, 7], [8, 9, 0, 0], [11, 12, 0, 0]]
    assert batch["labels"].tolist() == [
        [none, 6, 7, none],
        [9, none, none, none],
        [12, none, none, none],
    ]
    shared = collate(examples, turns="shared")
    assert shared["turn_ids"].tolist() == [[4, 5, 6, 7, 8, 9], [11, 12, 0, 0, 0, 0]]
    assert shared["labels"][0].tolist() == [none, 6, 7, none, 9, none]
    assert shared["turn_prompts"].tolist() == [0, 1]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
