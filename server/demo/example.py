"""The prompt that `gistserve demo` registers, and the messages it is asked about."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

EXAMPLE_FILE = Path(__file__).parent / "example.json"


@dataclass(frozen=True)
class Turn:
    """One user message and the only right reply to it."""

    message: str
    reply: str


@dataclass(frozen=True)
class Example:
    """A system prompt and the turns that are played under it, each on its own.

    The first turn only warms the servers up.
    """

    prompt: str
    turns: tuple[Turn, ...]

    def shortened(self, messages: int | None) -> "Example":
        """The example with at most so many turns that count; None keeps all."""
        return self if messages is None else replace(self, turns=self.turns[: messages + 1])


def load_example(path: Path = EXAMPLE_FILE) -> Example:
    """The example in this JSON file: `{"prompt": …, "turns": [{"message": …, "reply": …}]}`."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return Example(data["prompt"], tuple(Turn(**turn) for turn in data["turns"]))
