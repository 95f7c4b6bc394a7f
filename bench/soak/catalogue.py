"""The prompts and requests of a soak: few, so that every right answer is known beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...server.demo.example import load_example

NUM_KEPT = 6
NUM_EXPIRING = 8
_QUESTIONS = 3
_LENGTHS = (16, 48)


@dataclass(frozen=True)
class SoakPrompt:
    """A prompt to register, by its place in the catalogue."""

    index: int
    text: str
    method: str

    @property
    def expires(self) -> bool:
        return self.index >= NUM_KEPT

    def body(self, ttl: int | None) -> dict[str, Any]:
        """Of POST /v1/prompts."""
        return {
            "messages": [{"role": "system", "content": self.text}],
            "compression": self.method,
            "name": None if self.expires else f"kept-{self.index}",
            "ttl": None if ttl is None else f"{ttl}s",
        }


@dataclass(frozen=True)
class SoakRequest:
    """A greedy request, behind a prompt of the catalogue or none."""

    prompt: int | None
    question: str
    max_tokens: int

    def body(self, prompt_id: str | None, *, stream: bool) -> dict[str, Any]:
        """Of POST /v1/chat/completions."""
        return {
            "messages": [{"role": "user", "content": self.question}],
            "prompt_id": prompt_id,
            "max_tokens": self.max_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": stream,
        }


def soak_prompts() -> list[SoakPrompt]:
    """The demo's prompt with its sentences in other orders, gists and prefixes in turn; those
    that are kept come first."""
    sentences = load_example().prompt.split(". ")
    rotated = [sentences[i:] + sentences[:i] for i in range(NUM_KEPT + NUM_EXPIRING)]
    return [
        SoakPrompt(i, ". ".join(order), ("gist", "prefix")[i % 2])
        for i, order in enumerate(rotated)
    ]


def soak_requests(prompts: list[SoakPrompt]) -> Iterator[SoakRequest]:
    """Questions of several lengths behind every prompt, and behind none."""
    questions = [turn.message for turn in load_example().turns]
    for prompt in [*prompts, None, None]:
        index = None if prompt is None else prompt.index
        for _ in range(_QUESTIONS):
            question = questions.pop(0)
            questions.append(question)
            for length in _LENGTHS:
                yield SoakRequest(index, question, length)
