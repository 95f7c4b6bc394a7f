"""The ways of giving a prompt to a server that the demo compares, and what each one costs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from .example import Example, Turn

if TYPE_CHECKING:
    from openai import OpenAI


class ArmError(RuntimeError):
    """An arm did not do what its name says, so its figures would mean nothing."""


@dataclass(frozen=True)
class Arm:
    """One way of asking: where, with which leading messages, and with which registered prompt.

    `slots` and `cache_bytes` are what the server keeps for the prompt between requests.
    `gist_slots` and `cached_tokens` are the least that a request's usage must report.
    """

    name: str
    client: "OpenAI"
    model: str
    leading: tuple[dict[str, str], ...] = ()
    prompt_id: str | None = None
    slots: int = 0
    cache_bytes: int = 0
    gist_slots: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True)
class Answer:
    """One answer and its cost; `ttft` is the time to the first token's text, in seconds."""

    text: str
    ttft: float
    prompt_tokens: int
    cached_tokens: int
    gist_slots: int


@dataclass
class ArmResult:
    """All answers of one arm, in the order of the example's turns."""

    name: str
    slots: int
    cache_bytes: int
    answers: list[Answer] = field(default_factory=list)
    right: int = 0

    @property
    def ttft(self) -> float:
        """Median over the answers, in seconds."""
        return median(answer.ttft for answer in self.answers)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ttft_median": self.ttft}


def ask(arm: Arm, message: str, max_tokens: int = 64) -> Answer:
    """Send one message through the arm, streamed and greedy.

    Raises ArmError when the usage that the server reports does not fit the arm, and whatever the
    OpenAI client raises.
    """
    request: dict[str, Any] = {
        "model": arm.model,
        "messages": [*arm.leading, {"role": "user", "content": message}],
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "extra_body": {"prompt_id": arm.prompt_id} if arm.prompt_id else {},
    }
    pieces: list[str] = []
    ttft = 0.0
    usage: Any = None
    begin = time.perf_counter()
    stream: Any = arm.client.chat.completions.create(**request)
    for chunk in stream:
        usage = chunk.usage or usage
        text = (chunk.choices[0].delta.content if chunk.choices else None) or ""
        if text and not pieces:
            ttft = time.perf_counter() - begin
        if text:
            pieces.append(text)
    if usage is None or not pieces:
        raise ArmError(f"{arm.name}: the server sent no {'usage' if pieces else 'text'}")
    details = usage.prompt_tokens_details
    answer = Answer(
        text="".join(pieces),
        ttft=ttft,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=getattr(details, "cached_tokens", None) or 0,
        gist_slots=getattr(details, "gist_tokens", None) or 0,
    )
    _check(arm, answer)
    return answer


def compare(
    arms: Sequence[Arm], example: Example, on_answer: Callable[[], None] = lambda: None
) -> list[ArmResult]:
    """Play every turn but the first in all arms, turn by turn, so that noise hits all alike.

    The first turn warms every arm up and is not counted. No message is sent twice through one
    arm, so nothing of a message is ever cached; the order of the arms rotates.
    """
    warm_up, *turns = example.turns
    for arm in arms:
        ask(arm, warm_up.message)
        on_answer()
    results = [ArmResult(arm.name, arm.slots, arm.cache_bytes) for arm in arms]
    for number, turn in enumerate(turns):
        order = [(number + offset) % len(arms) for offset in range(len(arms))]
        for index in order:
            _play(arms[index], turn, results[index])
            on_answer()
    return results


def _play(arm: Arm, turn: Turn, result: ArmResult) -> None:
    answer = ask(arm, turn.message)
    result.answers.append(answer)
    result.right += answer.text.strip() == turn.reply.strip()


def _check(arm: Arm, answer: Answer) -> None:
    if answer.gist_slots < arm.gist_slots:
        raise ArmError(f"{arm.name}: expected {arm.gist_slots} gist slots, got {answer.gist_slots}")
    if answer.cached_tokens < arm.cached_tokens:
        raise ArmError(
            f"{arm.name}: expected {arm.cached_tokens} cached tokens, got {answer.cached_tokens}"
        )
