"""Prompts and labelled inputs from files."""

import json
from pathlib import Path

import pytest
from gistserve.bench.cli import app
from gistserve.bench.load.errors import LoadError
from gistserve.bench.prompts.inputs import parse_lengths, read_labelled, read_prompts
from gistserve.bench.prompts.settings import Labelled
from typer.testing import CliRunner


def write_rows(path: Path, *rows: dict[str, str]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def test_lengths_are_sorted_and_counted_once() -> None:
    assert parse_lengths("256, 64,256") == (64, 256)
    for wrong in ("64,many", "", "0,64"):
        with pytest.raises(LoadError, match="length"):
            parse_lengths(wrong)


def test_prompts_are_files_and_what_lies_in_folders(tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    (folder / "deeper").mkdir(parents=True)
    (folder / "b.txt").write_text(" second \n")
    (folder / "a.txt").write_text("first")
    single = tmp_path / "c.txt"
    single.write_text("third")
    found = read_prompts([folder, single])
    assert list(found.items()) == [("a.txt", "first"), ("b.txt", "second"), ("c.txt", "third")]
    with pytest.raises(LoadError, match=r"Two prompts are called a\.txt"):
        read_prompts([folder, folder / "a.txt"])
    with pytest.raises(LoadError, match="no file in"):
        read_prompts([folder / "deeper"])


def test_inputs_belong_to_their_own_prompt_or_to_all(tmp_path: Path) -> None:
    rows = [{"input": "i", "expected": "e"}, {"input": "j", "expected": "f", "prompt": "own"}]
    place = write_rows(tmp_path / "rows.jsonl", *rows)
    found = read_labelled(place, {"a": "A", "b": "B"}, None)
    assert found == [Labelled("A", "i", "e"), Labelled("B", "i", "e"), Labelled("own", "j", "f")]
    assert read_labelled(place, {"a": "A"}, 1) == [Labelled("A", "i", "e")]
    with pytest.raises(LoadError, match=r"rows\.jsonl:1 names no prompt"):
        read_labelled(place, {}, None)


def test_what_is_wrong_with_inputs_is_told(tmp_path: Path) -> None:
    place = write_rows(tmp_path / "rows.jsonl", {"input": "i"})
    with pytest.raises(LoadError, match=r"rows\.jsonl:1.*expected"):
        read_labelled(place, {"a": "A"}, None)
    empty = write_rows(tmp_path / "empty.jsonl")
    with pytest.raises(LoadError, match="no records"):
        read_labelled(empty, {"a": "A"}, None)


def test_prompts_of_ones_own_and_lengths_exclude_each_other(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("rules")
    words = ["prompts", "--prompt", str(prompt), "--lengths", "64"]
    done = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "out.json")])
    assert done.exit_code == 1
    assert "--lengths makes prompts up" in done.output
