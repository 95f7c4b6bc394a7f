"""Worked examples that show a teacher what to write, and how its answers are then read.

A YAML file of `FewShot`'s fields, or JSONL of the demonstrations alone:

    {"input": "...", "rationale": "...", "label": "..."}
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...config import ConfigError, from_mapping, load_config
from ...records import DataError, read_records
from .answer_format import AnswerFormat, UnparsableError

_SHIPPED = Path(__file__).with_name("demonstrations")


@dataclass(kw_only=True)
class Demonstration:
    """One worked example."""

    input: str
    rationale: str
    label: str


@dataclass(kw_only=True)
class FewShot:
    """Demonstrations, and the words around them.

    `question` and `answer` write an example for a plain language model, with a blank line between
    examples; a chat model is given inputs and answers as turns, behind `instruction`. For `stop`,
    `markers` and `label_pattern` see `AnswerFormat`.
    """

    demonstrations: list[Demonstration]
    instruction: str = ""
    question: str = "Q: {input}\nA:"
    answer: str = "{rationale} So the answer is {label}."
    stop: list[str] | None = None
    markers: list[str] | None = None
    label_pattern: str | None = None

    def __post_init__(self) -> None:
        if not self.demonstrations:
            raise ValueError("demonstrations must hold at least one example")
        _check_template("question", self.question, {"input": ""})
        _check_template("answer", self.answer, {"rationale": "", "label": ""})
        self.format = AnswerFormat(
            **({} if self.stop is None else {"stop": self.stop}),
            **({} if self.markers is None else {"markers": self.markers}),
            label_pattern=self.label_pattern,
        )
        for number, demonstration in enumerate(self.demonstrations, start=1):
            self._check_readable(number, demonstration)

    def text(self, source: str) -> str:
        """The prompt for a plain language model."""
        shown = [
            f"{self.question.format(input=d.input)} {self._written(d)}" for d in self.demonstrations
        ]
        head = [self.instruction] if self.instruction else []
        return "\n\n".join([*head, *shown, self.question.format(input=source)])

    def messages(self, source: str) -> list[dict[str, str]]:
        """The prompt for a chat model."""
        turns = [{"role": "system", "content": self.instruction}] if self.instruction else []
        for demonstration in self.demonstrations:
            turns.append({"role": "user", "content": demonstration.input})
            turns.append({"role": "assistant", "content": self._written(demonstration)})
        return [*turns, {"role": "user", "content": source}]

    def _written(self, demonstration: Demonstration) -> str:
        return self.answer.format(rationale=demonstration.rationale, label=demonstration.label)

    def _check_readable(self, number: int, demonstration: Demonstration) -> None:
        written = self._written(demonstration)
        try:
            rationale, _ = self.format.read(written)
        except UnparsableError as error:
            raise ValueError(
                f"demonstration {number} could not be read back ({error}): {written!r}"
            ) from error
        if rationale != demonstration.rationale.strip():
            raise ValueError(
                f"demonstration {number}: of its rationale only {rationale!r} would be read back"
            )


def load_few_shot(name_or_path: str) -> FewShot:
    """Demonstrations that come with the package, by name, or of a file. Raises ConfigError."""
    shipped = {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}
    path = shipped.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise ConfigError(
            f"demonstrations: there is no file {name_or_path}; those that come with the package "
            f"are {', '.join(shipped)}"
        )
    if path.suffix in (".yaml", ".yml"):
        return load_config(path, FewShot)
    try:
        records = [record for _, record in read_records(str(path))]
        return from_mapping(FewShot, {"demonstrations": records})
    except (ConfigError, DataError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _check_template(name: str, template: str, fields: Mapping[str, str]) -> None:
    used = set(re.findall(r"{(\w*)}", template))
    if used != set(fields):
        wanted = " and ".join(f"{{{field}}}" for field in fields)
        raise ValueError(f"{name} must hold {wanted} and no other field, got {template!r}")
    try:
        template.format(**fields)
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{name}: {template!r} is no template ({error})") from error
