from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from gistserve.server.demo.arms import Arm, ArmError, ask, compare
from gistserve.server.demo.example import Example, Turn, load_example


class Client:
    """Stands in for the OpenAI client: streams a reply and a usage chunk, keeps the requests."""

    def __init__(self, reply: str = "Yes.", cached: int = 0, gists: int = 0) -> None:
        self.reply, self.cached, self.gists = reply, cached, gists
        self.requests: list[dict[str, Any]] = []
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self.create))

    def create(self, **request: Any) -> Iterator[SimpleNamespace]:
        self.requests.append(request)
        for text in ["", *self.reply]:
            choice = SimpleNamespace(delta=SimpleNamespace(content=text))
            yield SimpleNamespace(choices=[choice], usage=None)
        details = SimpleNamespace(cached_tokens=self.cached, gist_tokens=self.gists)
        usage = SimpleNamespace(prompt_tokens=50, prompt_tokens_details=details)
        yield SimpleNamespace(choices=[], usage=usage)


def arm(name: str, client: Client, **options: Any) -> Arm:
    return Arm(name, client, "m", **options)  # type: ignore[arg-type]


EXAMPLE = Example("Be brief.", tuple(Turn(f"question {i}", "Yes.") for i in range(4)))


def test_an_answer_carries_text_and_usage() -> None:
    client = Client(cached=40, gists=9)
    answer = ask(arm("gist", client, prompt_id="pmpt_1"), "Hi")
    assert (answer.text, answer.prompt_tokens) == ("Yes.", 50)
    assert (answer.cached_tokens, answer.gist_slots) == (40, 9)
    assert answer.ttft > 0
    assert client.requests[0]["extra_body"] == {"prompt_id": "pmpt_1"}


def test_arms_take_turns_and_the_first_turn_is_warm_up() -> None:
    client = Client()
    arms = [arm("a", client), arm("b", client, leading=({"role": "system", "content": "x"},))]
    done: list[int] = []
    results = compare(arms, EXAMPLE, lambda: done.append(1))
    assert [len(result.answers) for result in results] == [3, 3]
    assert [result.right for result in results] == [3, 3]
    assert len(done) == len(client.requests) == 8
    order = [len(request["messages"]) for request in client.requests[2:]]
    assert order == [1, 2, 2, 1, 1, 2]


def test_a_wrong_answer_is_counted_as_wrong() -> None:
    (result,) = compare([arm("a", Client("No."))], EXAMPLE)
    assert result.right == 0
    assert result.to_json()["ttft_median"] == result.ttft


def test_an_arm_that_does_not_use_its_cache_is_refused() -> None:
    with pytest.raises(ArmError, match="9 gist slots"):
        ask(arm("gist", Client(cached=40), gist_slots=9, cached_tokens=40), "Hi")
    with pytest.raises(ArmError, match="40 cached tokens"):
        ask(arm("prefix", Client(cached=16), cached_tokens=40), "Hi")


def test_an_empty_answer_is_refused() -> None:
    with pytest.raises(ArmError, match="no text"):
        ask(arm("a", Client("")), "Hi")


def test_the_shipped_example_asks_each_message_once() -> None:
    example = load_example()
    messages = [turn.message for turn in example.turns]
    assert len(set(messages)) == len(messages) >= 8
    assert len(example.prompt.split()) >= 60
    assert all(turn.reply for turn in example.turns)


def test_an_example_can_be_shortened() -> None:
    assert len(EXAMPLE.shortened(2).turns) == 3
    assert EXAMPLE.shortened(None) is EXAMPLE
    assert EXAMPLE.shortened(99) == EXAMPLE
