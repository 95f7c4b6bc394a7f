"""The file of a teacher's answers as they came: what an interrupted annotation goes on from."""

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ...config import ConfigError
from ...records import DataError
from .answer_format import AnswerFormat, Explained, UnparsableError


@dataclass(frozen=True)
class Answer:
    """What a teacher said to one input.

    `cut_off`: it stopped for its length alone. `refused`: why it would not be asked that; the text
    is then empty.
    """

    text: str
    cut_off: bool = False
    refused: str | None = None

    def read(self, answer_format: AnswerFormat) -> Explained:
        """Its rationale and label. Raises UnparsableError."""
        if self.refused is not None:
            raise UnparsableError(f"refused: {self.refused}")
        return answer_format.read(self.text, cut_off=self.cut_off)


class AnswerFile:
    """Answers by the index of their input, each appended as one whole line when it comes.

    The first line holds the settings that answers depend on. A line that a kill cut off is dropped
    on opening. The file stays locked until the context ends.

    Raises ConfigError where another process writes it, where it was made with other settings or
    cannot be written, DataError where a line is broken or belongs to another input.
    """

    def __init__(self, path: Path, settings: dict[str, Any], inputs: list[str]) -> None:
        self._path = path
        self._inputs = inputs
        self._answers: dict[int, Answer] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise ConfigError(f"output: {path} cannot be written: {error.strerror}") from error
        try:
            self._lock()
            self._read(settings)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> "AnswerFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, index: int) -> Answer | None:
        """The answer to the input of that index, if there is one."""
        return self._answers.get(index)

    def add(self, index: int, answer: Answer) -> None:
        """Keep an answer. Raises OSError."""
        row: dict[str, Any] = {"index": index, "input": self._inputs[index], "text": answer.text}
        if answer.cut_off:
            row["cut_off"] = True
        if answer.refused is not None:
            row["refused"] = answer.refused
        self._append(row)
        self._answers[index] = answer

    def _append(self, row: dict[str, Any]) -> None:
        rest = json_line(row)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another process writes {self._path}; wait for it, or choose another output"
            ) from None

    def _read(self, settings: dict[str, Any]) -> None:
        with open(self._descriptor, "rb", closefd=False) as file:
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.split(b"\n")[:-1]
        if lines:
            self._check_settings(self._row(lines[0], 1).get("settings"), settings, len(lines) > 1)
        os.ftruncate(self._descriptor, len(whole) if len(lines) > 1 else 0)
        if len(lines) <= 1:
            self._append({"settings": settings})
        for number, line in enumerate(lines[1:], start=2):
            self._take(self._row(line, number), f"{self._path}:{number}")

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise DataError(f"{self._path}:{number} is broken: delete that line to ask it again")
        return row

    def _check_settings(self, ours: Any, settings: dict[str, Any], answered: bool) -> None:
        if not isinstance(ours, dict):
            raise ConfigError(f"{self._path} is no file of answers; choose another output")
        differing = sorted(
            name for name in ours.keys() | settings.keys() if ours.get(name) != settings.get(name)
        )
        if differing and answered:
            raise ConfigError(
                f"the answers in {self._path} were given under other settings: "
                f"{', '.join(differing)}; restore them, or choose another output"
            )

    def _take(self, row: dict[str, Any], where: str) -> None:
        index, text = row.get("index"), row.get("text")
        if not isinstance(index, int) or not isinstance(text, str):
            raise DataError(f"{where} is broken: delete that line to ask it again")
        if index >= len(self._inputs):
            return  # asked under a larger limit
        if row.get("input") != self._inputs[index]:
            raise DataError(
                f"{where} answers another input than record {index} of the data; restore the "
                "data, or choose another output"
            )
        self._answers[index] = Answer(text, bool(row.get("cut_off")), row.get("refused"))


def json_line(row: dict[str, Any]) -> bytes:
    """One line of JSONL. Half a surrogate pair, which is no UTF-8, becomes its JSON escape."""
    return (json.dumps(row, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
