"""Answers to labelled prompts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from gistserve.bench.load.client import open_session
from gistserve.bench.load.endpoint import Endpoint
from gistserve.bench.load.errors import LoadError
from gistserve.bench.load.target import Target
from gistserve.bench.models.contender import Contender
from gistserve.bench.models.kept_prompt import KeptPrompt
from gistserve.bench.models.quality import Labelled, answers, read_labelled, scores

from ..fake_server import StartServer

ROWS = [Labelled(f"say {number}", f" {number} apples") for number in range(7)]


PLAIN = Contender("m", "m")
GIST = Contender("m + gist", "m", KeptPrompt("policy", "prompt_1", 40, 5, 1280))


def ask(url: str, endpoint: Endpoint, contender: Contender = PLAIN) -> list[str]:
    done: list[None] = []

    async def go() -> list[str]:
        target = Target(url, "another", endpoint)
        async with open_session(target) as session:
            return await answers(
                session,
                target,
                contender,
                ROWS,
                max_tokens=9,
                concurrency=3,
                on_done=lambda: done.append(None),
            )

    texts = asyncio.run(go())
    assert len(done) == len(ROWS)
    return texts


def test_answers_come_in_the_order_of_their_prompts(start_server: StartServer) -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 9)
        assert "prompt_id" not in body
        if "messages" in body:
            word = body["messages"][0]["content"].split()[1]
            choice: dict[str, Any] = {"message": {"content": f"{word} pears"}}
        else:
            word = body["prompt"].split()[1]
            choice = {"text": f" {word} apples"}
        # The first prompts are answered last.
        return 200, [0.1 / (1 + int(word)), json.dumps({"choices": [choice]}).encode()]

    server = start_server(answer)
    assert ask(server.url, Endpoint.completions) == [row.response for row in ROWS]
    assert ask(server.url, Endpoint.chat) == [f"{number} pears" for number in range(7)]


def test_a_refused_prompt_ends_the_comparison(start_server: StartServer) -> None:
    server = start_server(lambda path, body: (400, [b"too long"]))
    with pytest.raises(LoadError, match="m gave no answer: HTTP 400: too long"):
        ask(server.url, Endpoint.completions)


@pytest.mark.parametrize("endpoint", Endpoint)
@pytest.mark.parametrize("usage", [{"cached_tokens": 40, "gist_tokens": 5}, {}])
def test_an_answer_under_a_prompt_proves_that_its_cache_was_used(
    start_server: StartServer, endpoint: Endpoint, usage: dict[str, int]
) -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        assert (body["model"], body["prompt_id"]) == ("m", "prompt_1")
        choice = {"text": "a", "message": {"content": "a"}}
        reply = {"choices": [choice], "usage": {"prompt_tokens_details": usage}}
        return 200, [json.dumps(reply).encode()]

    server = start_server(answer)
    if usage:
        assert ask(server.url, endpoint, GIST) == ["a"] * 7
    else:
        with pytest.raises(LoadError, match=r"m \+ gist did not use the prompt's cache"):
            ask(server.url, endpoint, GIST)


def test_scores_are_means_with_standard_errors() -> None:
    pytest.importorskip("torchmetrics")
    rows = [Labelled("p", "a b c d"), Labelled("p", "x y")]
    found = scores([" a b c d ", "x z"], rows)
    assert found["examples"] == 2
    assert found["exact_match"] == {"mean": 0.5, "standard_error": pytest.approx(0.5)}
    assert found["rouge_l"]["mean"] == pytest.approx(0.75)  # 1 and, of two words one, 1/2
    assert found["mean_words"] == 3


def test_records_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    lines = [{"question": f"q{number}", "answer": "a"} for number in range(3)]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert read_labelled(str(path), "question", "answer", 2) == [
        Labelled("q0", "a"),
        Labelled("q1", "a"),
    ]
    assert len(read_labelled(str(path), "question", "answer", None)) == 3
    with pytest.raises(LoadError, match=r"test\.jsonl:1: the field prompt is missing"):
        read_labelled(str(path), "prompt", "answer", None)
    path.write_text("")
    with pytest.raises(LoadError, match="no records"):
        read_labelled(str(path), "prompt", "answer", None)
