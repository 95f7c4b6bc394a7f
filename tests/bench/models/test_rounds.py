"""Rounds under a prompt: who is asked with whom, behind which of its caches."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from statistics import mode
from typing import Any

import pytest
from gistserve.bench.load.client import LoadClient, open_session
from gistserve.bench.load.endpoint import Endpoint
from gistserve.bench.load.errors import LoadError
from gistserve.bench.load.lengths import parse_lengths
from gistserve.bench.load.target import Target
from gistserve.bench.load.words import TokensPerWord
from gistserve.bench.load.workload import Workload
from gistserve.bench.models.contender import Contender
from gistserve.bench.models.kept_prompt import KeptPrompt
from gistserve.bench.models.rounds import Rounds

from ..fake_server import DONE, FakeServer, StartServer, data, text

FULL = Contender("a", "a", KeptPrompt("policy", "a-full", 40, 0, 10240))
GIST = Contender("a + gist", "a", KeptPrompt("policy", "a-gist", 40, 5, 1280))
OTHER = Contender("b", "b", KeptPrompt("policy", "b-full", 40, 0, 10240))
USAGE = {"a-full": (40, 0), "a-gist": (40, 5), "b-full": (40, 0), None: (0, 0)}
LENGTH = parse_lengths("30")
ASKED = 3


def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    cached, gists = USAGE[body.get("prompt_id")]
    details = {"cached_tokens": cached, "gist_tokens": gists}
    usage = {"prompt_tokens": 70, "completion_tokens": 2, "prompt_tokens_details": details}
    delay = 0.03 if body["model"] == "b" else 0.001
    return 200, [delay, text("a", "length"), data({"choices": [], "usage": usage}), DONE]


def measure(
    server: FakeServer, compared: list[Contender], rounds: int = 1
) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """Figures of the rounds, and the bodies that each step sent; the warm-up's come first."""
    starts: list[int] = []
    workload = Workload(LENGTH, LENGTH)

    async def go() -> list[dict[str, Any]]:
        target = Target(server.url, "a", Endpoint.completions)
        async with open_session(target) as session:
            names = {contender.model for contender in compared}
            clients = {
                name: LoadClient(Target(server.url, name, Endpoint.completions), session)
                for name in names
            }
            measured = Rounds(
                compared,
                clients,
                dict.fromkeys(names, TokensPerWord(1.0)),
                workload,
                concurrency=2,
                requests=ASKED,
                on_step=lambda _: starts.append(len(server.requests)),
            )
            return await measured.run(rounds, seed=0)

    found = asyncio.run(go())
    bodies = [body for _, _, body in server.requests]
    ends = [*starts[1:], len(bodies)]
    return found, [bodies[start:end] for start, end in zip(starts, ends, strict=True)]


def test_rows_are_asked_behind_their_own_caches(start_server: StartServer) -> None:
    server = start_server(answer)
    found, steps = measure(server, [FULL, GIST, OTHER])
    assert len(found) == 1
    assert list(found[0]) == ["alone_1", "alone_2", "together"]
    for arm in found[0].values():
        assert set(arm) == {"a", "a + gist", "b"}
        for figures in arm.values():
            assert len(figures["ttft_ms"]) >= ASKED
    # In each round three rows alone at two levels, and twice together.
    assert len(steps) == 2 * (2 * 3 + 2)
    for step in steps[:6] + steps[8:14]:
        assert len(step) == ASKED
        assert len({body["prompt_id"] for body in step}) == 1
    alone = Counter(body["prompt_id"] for step in steps[8:14] for body in step)
    assert alone == dict.fromkeys(("a-full", "a-gist", "b-full"), 2 * ASKED)
    for step in steps:
        assert all(body["prompt_id"].startswith(body["model"]) for body in step)


def test_together_a_model_is_asked_by_one_of_its_rows(start_server: StartServer) -> None:
    server = start_server(answer)
    _, steps = measure(server, [FULL, GIST, OTHER])
    crowds = [{body["prompt_id"] for body in step} for step in (*steps[6:8], *steps[14:])]
    plain, gists = {"a-full", "b-full"}, {"a-gist", "b-full"}
    # Which comes first changes from round to round.
    assert crowds == [gists, plain, plain, gists]


def test_a_row_without_a_gist_is_measured_where_none_has_one(start_server: StartServer) -> None:
    lengths = {"a-full": 2, "a-gist": 7}
    latest = "a-full"

    def by_crowd(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """`b` answers as long as `a` did last, whose row tells which crowd it is."""
        nonlocal latest
        latest = body["prompt_id"] if body["model"] == "a" else latest
        status, steps = answer(path, body)
        usage = json.loads(steps[2].removeprefix(b"data: "))
        usage["usage"]["completion_tokens"] = lengths[latest]
        return status, [*steps[:2], data(usage), DONE]

    found, _ = measure(start_server(by_crowd), [FULL, GIST, OTHER])
    together = found[0]["together"]
    # In the first moment of a crowd, who was asked last may have been of another one.
    assert mode(together["b"]["output_tokens"]) == lengths["a-full"]
    assert mode(together["a + gist"]["output_tokens"]) == lengths["a-gist"]


def test_models_get_the_same_texts_together_and_never_one_twice(start_server: StartServer) -> None:
    server = start_server(answer)
    _, steps = measure(server, [FULL, OTHER])
    asked = {name: [body["prompt"] for body in steps[-1] if body["model"] == name] for name in "ab"}
    assert len(asked["a"]) > 2 * ASKED  # it is faster, and is kept busy
    assert len(set(asked["a"])) == len(asked["a"])
    assert set(asked["b"]) < set(asked["a"])


def test_one_model_alone_has_no_others_to_be_together_with(start_server: StartServer) -> None:
    server = start_server(answer)
    found, _ = measure(server, [FULL, GIST])
    assert list(found[0]) == ["alone_1", "alone_2"]


def test_without_a_prompt_none_is_named(start_server: StartServer) -> None:
    server = start_server(answer)
    found, steps = measure(server, [Contender("a", "a"), Contender("b", "b")])
    assert list(found[0]["together"]) == ["a", "b"]
    assert all("prompt_id" not in body for step in steps for body in step)
    assert len(steps) == 2 * (2 * 2 + 1)


def test_a_request_that_does_not_use_the_cache_ends_the_comparison(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(USAGE, "a-gist", (40, 0))
    server = start_server(answer)
    with pytest.raises(LoadError, match=r"to a \+ gist did not use the prompt's cache"):
        measure(server, [FULL, GIST])
