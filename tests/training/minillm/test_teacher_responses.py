"""The teacher's responses: written once, gone on with after a stop, used again."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from gistserve.training.generate import SamplingSettings
from gistserve.training.minillm import teacher_responses
from gistserve.training.minillm.data import Pair
from gistserve.training.minillm.teacher_responses import TeacherResponses
from gistserve.training.minillm.template import PromptTemplate
from gistserve.training.records import DataError

from .tiny_run import make_tokenizer

SETTINGS = SamplingSettings(max_new_tokens=5, temperature=1.0, seed=7)
TEMPLATE = PromptTemplate("plain", make_tokenizer())
CHUNK = 4


class Stopped(Exception):
    pass


class Writer:
    """Writes what depends on prompt and seed; stops at a call if told to."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls: list[list[list[int]]] = []
        self._stop_at = stop_at

    def __call__(self, prompts: list[list[int]], settings: SamplingSettings) -> list[list[int]]:
        if len(self.calls) == self._stop_at:
            raise Stopped
        self.calls.append(prompts)
        return [[3 + (sum(prompt) + settings.seed) % 9, 1] for prompt in prompts]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_responses, "CHUNK", CHUNK)


def pairs(count: int) -> list[Pair]:
    return [Pair(f"my {i}", " gold", [3, 3 + i % 5], [4, 1]) for i in range(count)]


def responses(path: Path, writer: Writer, teacher: str = "big") -> TeacherResponses:
    return TeacherResponses(
        path, teacher, SETTINGS, lambda: nullcontext(writer), TEMPLATE, frozenset({1})
    )


def test_they_take_the_place_of_the_data_s(tmp_path: Path) -> None:
    writer, path = Writer(), tmp_path / "new" / "responses.jsonl"
    found = responses(path, writer).pairs(pairs(10))
    assert [len(call) for call in writer.calls] == [4, 4, 2]
    assert [pair.prompt_ids for pair in found] == [pair.prompt_ids for pair in pairs(10)]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["response_ids"] for row in rows] == [pair.response_ids for pair in found]
    assert all(
        row["ended"] and row["response"] == p.response for row, p in zip(rows, found, strict=True)
    )
    again = Writer(stop_at=0)
    assert responses(path, again).pairs(pairs(10)) == found


@pytest.mark.parametrize("cut", [0, 5, 30, 1])
def test_a_stopped_file_is_gone_on_with(cut: int, tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    expected = responses(whole, Writer()).pairs(pairs(11))
    path = tmp_path / "cut.jsonl"
    with pytest.raises(Stopped):
        responses(path, Writer(stop_at=2)).pairs(pairs(11))
    kept = path.read_bytes()
    path.write_bytes(kept[: len(kept) - cut])
    assert responses(path, Writer()).pairs(pairs(11)) == expected
    assert path.read_bytes() == whole.read_bytes()


def test_other_prompts_and_teachers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    responses(path, Writer()).pairs(pairs(6))
    with pytest.raises(DataError, match="responses of other prompts"):
        responses(path, Writer()).pairs(pairs(5))
    with pytest.raises(DataError, match="responses of other teacher"):
        responses(path, Writer(), teacher="bigger").pairs(pairs(6))


def test_strange_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n')
    with pytest.raises(DataError, match="train_data of method sft"):
        responses(path, Writer()).pairs(pairs(6))
    path.unlink()
    responses(path, Writer()).pairs(pairs(4))
    path.write_text("{}\n" * 4)
    with pytest.raises(DataError, match="damaged"):
        responses(path, Writer()).pairs(pairs(4))
