"""The file of answers: whatever a kill leaves of it, one goes on as if nothing had been."""

import json
from pathlib import Path

import pytest
from gistserve.training.config import ConfigError
from gistserve.training.records import DataError
from gistserve.training.step_by_step.annotation.answers import Answer, AnswerFile
from hypothesis import given, settings
from hypothesis import strategies as st

INPUTS = ["a", "\ud83d Größe\n?", "a", "b"]
ANSWERS = [Answer("東京\u2028"), Answer("half", cut_off=True), Answer("", refused="no"), Answer("")]
SETTINGS = {"model": "m", "temperature": 0.0}


def write(path: Path, first: int = 0) -> None:
    with AnswerFile(path, SETTINGS, INPUTS) as answers:
        for index in range(first, len(INPUTS)):
            answers.add(index, ANSWERS[index])


@settings(deadline=None)
@given(st.integers(min_value=0))
def test_it_is_gone_on_with_after_a_kill_at_any_byte(tmp_path_factory, seed: int) -> None:
    path = tmp_path_factory.mktemp("answers") / "a.jsonl"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: seed % (len(whole) + 1)])
    with AnswerFile(path, SETTINGS, INPUTS) as answers:
        known = len(answers)
        assert [answers.get(i) for i in range(4)] == ANSWERS[:known] + [None] * (4 - known)
    write(path, first=known)
    assert path.read_bytes() == whole
    assert known == max(0, whole[: seed % (len(whole) + 1)].count(b"\n") - 1)


def test_another_process_is_kept_out(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.jsonl"
    with (
        AnswerFile(path, SETTINGS, INPUTS),
        pytest.raises(ConfigError, match="another process writes"),
    ):
        AnswerFile(path, SETTINGS, INPUTS)
    with AnswerFile(path, SETTINGS, INPUTS):
        pass


def test_other_settings_and_other_data_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path)
    with pytest.raises(ConfigError, match="other settings: seed, temperature;"):
        AnswerFile(path, SETTINGS | {"temperature": 1.0, "seed": 3}, INPUTS)
    with pytest.raises(DataError, match=r"a\.jsonl:3 answers another input than record 1"):
        AnswerFile(path, SETTINGS, ["a", "b", "a", "c"])
    with AnswerFile(path, SETTINGS, INPUTS[:2]) as answers:  # a smaller limit
        assert len(answers) == 2


def test_settings_may_change_as_long_as_nothing_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with AnswerFile(path, {"model": "other"}, INPUTS):
        pass
    write(path)
    write(tmp_path / "b.jsonl")
    assert path.read_bytes() == (tmp_path / "b.jsonl").read_bytes()


@pytest.mark.parametrize("line", ["{", "[]", '{"index": "1"}', '{"index": 1, "input": "b"}'])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"settings": SETTINGS}) + f"\n{line}\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2 is broken"):
        AnswerFile(path, SETTINGS, INPUTS)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"input": "a"}\n')
    with pytest.raises(ConfigError, match="no file of answers"):
        AnswerFile(path, SETTINGS, INPUTS)
    assert path.read_text() == '{"input": "a"}\n'
    with pytest.raises(ConfigError, match="cannot be written"):
        AnswerFile(path / "b.jsonl", SETTINGS, INPUTS)
