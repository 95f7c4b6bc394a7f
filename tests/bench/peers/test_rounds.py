"""Turns, equal requests, and measurements that are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
from gistserve.bench.load.client import LoadClient, open_session
from gistserve.bench.load.endpoint import Endpoint
from gistserve.bench.load.errors import LoadError
from gistserve.bench.load.target import Target
from gistserve.bench.peers.contestant import Contestant
from gistserve.bench.peers.rounds import Rounds
from gistserve.bench.peers.settings import PeersSettings

from ..fake_server import FakeServer, StartServer, Step, text, usage
from .fakes import FakePeer

SETTINGS = PeersSettings(concurrency=(1, 2), requests=3, rounds=3, input_tokens=6, output_tokens=4)


class Process:
    """A process that notes when it is awake."""

    def __init__(self, alive: bool = True) -> None:
        self.alive = alive
        self.seconds = iter(range(1000))

    def awake(self) -> Any:
        return nullcontext()

    def is_alive(self) -> bool:
        return self.alive

    def log_tail(self) -> str:
        return "out of memory"

    def processor_seconds(self) -> float:
        return float(next(self.seconds))


def answer(output: int | None = None, prompt: int | None = None) -> Any:
    """Answers of the wanted length, or of `output` tokens to a prompt of `prompt`."""

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Sequence[Step]]:
        wanted = body["max_tokens"]
        counts = usage(prompt or len(body["prompt"].split()), output or wanted)
        return 200, [text(" x")] * wanted + [text("", "length"), counts]

    return answer


def run(servers: dict[str, FakeServer], process: Process | None = None, **peer: Any) -> Any:
    """Warm up and run all rounds; the requests of the warm-up are forgotten."""

    async def go() -> list[dict[str, Any]]:
        target = Target("", "bench", Endpoint.completions)
        async with open_session(target) as session:
            contestants = []
            for name, server in servers.items():
                fake: Any = FakePeer(name)
                vars(fake).update(peer)
                client = LoadClient(Target(server.url, "bench", Endpoint.completions), session)
                contestants.append(Contestant(fake, process or Process(), client))  # type: ignore[arg-type]
            rounds = Rounds(
                contestants, SETTINGS, lambda text: len(text.split()), lambda title: lambda _: None
            )
            await rounds.warm_up(session)
            for server in servers.values():
                server.requests.clear()
            return [found async for measurements in rounds.run() for found in measurements]

    return asyncio.run(go())


def test_servers_take_turns_at_the_same_requests(start_server: StartServer) -> None:
    order: list[str] = []

    def noting(name: str) -> Any:
        def note(path: str, body: dict[str, Any]) -> tuple[int, Sequence[Step]]:
            if order[-1:] != [name]:
                order.append(name)
            return answer()(path, body)

        return note

    servers = {name: start_server(noting(name)) for name in ("us", "a", "b")}
    found = run(servers)
    bodies = {
        name: [body["prompt"] for _, _, body in server.requests] for name, server in servers.items()
    }
    for name in ("a", "b"):
        assert sorted(bodies["us"]) == sorted(bodies[name])
    assert len(set(bodies["us"])) == 3 * (3 + 4)  # twice the load, where that is more than three
    assert [(f["round"], f["concurrency"]) for f in found] == [
        (number, load) for number in (1, 2, 3) for load in (1, 2)
    ]
    assert order[:3] == ["us", "a", "b"]  # the warm-up
    # The first of each round and load.
    turns = ["a", "b", "us"], ["b", "us", "a"], ["us", "a", "b"]
    expected = [name for turn in turns for _ in (1, 2) for name in turn]
    merged = [name for i, name in enumerate(expected) if i == 0 or expected[i - 1] != name]
    assert order[3:] == merged
    for measurement in found:
        for figures in measurement["servers"].values():
            count = 3 if measurement["concurrency"] == 1 else 4
            assert figures["samples"]["output_tokens"] == [4] * count
            assert figures["samples"]["prompt_tokens"] == [6] * count
            assert figures["processor_ms_per_token"] == 1e3 * 1.0 / (4 * count)
            assert figures["output_throughput"] == pytest.approx(
                4 * count / figures["duration_s"], rel=0.2
            )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (answer(output=3), "counted 6 \\+ 3 tokens .* where 6 \\+ 4"),
        (answer(prompt=7), "counted 7 \\+ 4 tokens"),
        (lambda path, body: (500, [b"broken"]), "failed: HTTP 500"),
    ],
)
def test_a_server_that_counts_otherwise_ends_the_warm_up(
    start_server: StartServer, bad: Any, message: str
) -> None:
    with pytest.raises(LoadError, match=f"Nothing can be compared: .*them.*{message}"):
        run({"us": start_server(answer()), "them": start_server(bad)})


def test_a_round_in_which_counts_differ_has_no_figures(start_server: StartServer) -> None:
    seen = 0

    def once_short(path: str, body: dict[str, Any]) -> tuple[int, Sequence[Step]]:
        nonlocal seen
        seen += 1
        # The first request after four of the warm-up.
        return answer(output=3 if seen == 5 else None)(path, body)

    found = run({"us": start_server(answer()), "them": start_server(once_short)})
    assert "them counted 6 + 3 tokens" in found[0]["refused"]
    assert "servers" not in found[0]
    assert [sorted(f["servers"]) for f in found[1:]] == [["them", "us"]] * 5


def test_a_server_that_has_ended_ends_all(start_server: StartServer) -> None:
    with pytest.raises(LoadError, match="us has ended:\nout of memory"):
        run({"us": start_server(answer())}, Process(alive=False))


def untold(path: str, body: dict[str, Any]) -> tuple[int, Sequence[Step]]:
    """As the bindings' server does: no usage in a stream, but without one."""
    wanted = body["max_tokens"]
    if body.get("stream"):
        return 200, [text(" x")] * wanted + [text("", "length")]
    words = len(body["prompt"].split())
    return 200, [b'{"usage": {"prompt_tokens": %d}}' % words]


def test_chunks_count_where_streams_tell_no_usage(start_server: StartServer) -> None:
    found = run({"us": start_server(untold)}, tells_usage=False)
    for measurement in found:
        assert set(measurement["servers"]["us"]["samples"]["output_tokens"]) == {4}


def test_a_prompt_counted_otherwise_without_a_stream_is_refused(start_server: StartServer) -> None:
    def other(path: str, body: dict[str, Any]) -> tuple[int, Sequence[Step]]:
        return untold(path, body | {"prompt": "one more " + body["prompt"]})

    with pytest.raises(LoadError, match="counted 8 tokens of a prompt of 6"):
        run({"us": start_server(other)}, tells_usage=False)


def test_fewer_chunks_than_tokens_are_refused(start_server: StartServer) -> None:
    def short(path: str, body: dict[str, Any]) -> tuple[int, Sequence[Step]]:
        status, steps = untold(path, body)
        return status, steps[1:] if body.get("stream") else steps

    with pytest.raises(LoadError, match="counted 6 \\+ 3 tokens"):
        run({"us": start_server(short)}, tells_usage=False)
