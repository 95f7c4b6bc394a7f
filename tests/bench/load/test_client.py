"""The client against answers whose delays are known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest
from gistserve.bench.load import client
from gistserve.bench.load.client import LoadClient, keeps_alive, open_session
from gistserve.bench.load.endpoint import Endpoint
from gistserve.bench.load.sample import Sample
from gistserve.bench.load.target import Target
from gistserve.bench.load.workload import LoadRequest

from ..fake_server import DONE, Clock, StartServer, Step, data, text, usage

Ask = Callable[..., Sample]

REQUEST = LoadRequest("", None, "Hello", 5)


async def send_to(target: Target) -> Sample:
    async with open_session(target) as session:
        return await LoadClient(target, session).send(REQUEST, 0.0)


@pytest.fixture
def ask(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """The sample of an answer whose seconds pass on the client's own clock."""
    clock = Clock()
    monkeypatch.setattr(client, "perf_counter", clock)

    def ask(*steps: Step, endpoint: Endpoint = Endpoint.completions) -> Sample:
        server = start_server(lambda path, body: (200, steps), clock)
        return asyncio.run(send_to(Target(server.url, "m", endpoint)))

    return ask


def test_delays_are_measured_as_they_were(ask: Ask) -> None:
    gaps = [0.2, 0.05, 0.3]
    steps: list[Step] = [0.4, text("a")]
    for gap in gaps:
        steps += [gap, text("b", "length" if gap is gaps[-1] else None)]
    sample = ask(*steps, 0.25, usage(7, 4, cached=3), DONE)
    assert sample.error is None
    assert sample.ttft == pytest.approx(0.4)
    assert sample.itl == pytest.approx(gaps)
    # What comes behind the answer is not waited for.
    assert sample.e2el == pytest.approx(0.4 + sum(gaps))
    assert sample.tpot == pytest.approx(sum(gaps) / 3)
    assert (sample.prompt_tokens, sample.output_tokens, sample.cached_tokens) == (7, 4, 3)


def test_a_role_and_an_end_without_text_are_no_tokens(ask: Ask) -> None:
    def chat(delta: dict, finish: str | None = None) -> bytes:
        return data({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    sample = ask(
        chat({"role": "assistant", "content": ""}),
        0.3,
        chat({"content": "a"}),
        0.1,
        chat({"content": "b"}),
        0.2,
        chat({}, "stop"),
        usage(5, 2),
        DONE,
        endpoint=Endpoint.chat,
    )
    assert sample.ttft == pytest.approx(0.3)
    assert sample.itl == pytest.approx([0.1])
    assert sample.e2el == pytest.approx(0.6)


def test_several_chunks_in_a_packet_arrive_together(ask: Ask) -> None:
    packet = text("b") + text("c") + text("d", "length")
    sample = ask(text("a"), 0.3, packet + usage(5, 4) + DONE)
    assert sample.itl == pytest.approx([0.3, 0.0, 0.0])
    assert sample.output_tokens == 4


def test_tokens_are_counted_by_usage_and_not_by_chunks(ask: Ask) -> None:
    sample = ask(text("one two three"), 0.3, text("four five", "stop"), usage(5, 7), DONE)
    assert sample.output_tokens == 7
    assert len(sample.itl) == 1
    assert sample.tpot == pytest.approx(0.3 / 6)


def test_characters_and_events_may_be_split_over_packets(ask: Ask) -> None:
    stream = text("für") + text("…", "stop") + usage(5, 2) + DONE
    places = [0, 7, stream.index(b"\xc3") + 1, stream.index(b"\xe2") + 2, len(stream)]
    steps: list[Step] = []
    for first, last in pairwise(places):
        steps += [0.05, stream[first:last]]
    sample = ask(*steps)
    assert sample.error is None
    assert sample.ttft == pytest.approx(0.15)  # when the event was whole
    assert sample.output_tokens == 2


def test_usage_may_come_with_every_chunk_or_be_null(ask: Ask) -> None:
    def chunk(words: str, tokens: int | None, finish: str | None = None) -> bytes:
        counts = tokens and {"prompt_tokens": 3, "completion_tokens": tokens}
        choice = {"index": 0, "text": words, "finish_reason": finish}
        return data({"choices": [choice], "usage": counts})

    sample = ask(chunk("a", 1), chunk("b", None), chunk("c", 3, "stop"), DONE)
    assert (sample.output_tokens, sample.prompt_tokens) == (3, 3)
    assert sample.cached_tokens is None


def test_an_answer_without_text_ends_at_its_first_token(ask: Ask) -> None:
    sample = ask(0.2, text("", "stop"), usage(5, 1), DONE)
    assert sample.error is None
    assert sample.ttft == pytest.approx(0.2)
    assert sample.ttft == sample.e2el
    assert sample.itl == []


@pytest.mark.parametrize(
    ("status", "steps", "error"),
    [
        (
            429,
            [b'{"error": {"message": "Too many requests.", "code": null}}'],
            "HTTP 429: Too many requests.",
        ),
        (500, [b"<html>oops"], "HTTP 500: <html>oops"),
        (404, [b'{"detail": "Not Found"}'], "HTTP 404: {'detail': 'Not Found'}"),
        (503, [], "HTTP 503: (empty answer)"),
        (
            200,
            [text("a"), data({"error": {"message": "Out of memory."}}), DONE],
            "error in the stream: Out of memory.",
        ),
        (200, [text("a"), usage(5, 1), DONE], "the stream ended before the answer"),
        (200, [text("a")], "the stream ended before the answer"),
        (200, [text("a"), data("{no"), DONE], "an event is no JSON: b'{no'"),
        (200, [data("[1]"), DONE], "error in the stream: [1]"),
    ],
)
def test_what_is_no_answer_is_an_error(
    start_server: StartServer, status: int, steps: list[Step], error: str
) -> None:
    server = start_server(lambda path, body: (status, steps))
    assert asyncio.run(send_to(Target(server.url, "m", Endpoint.completions))).error == error


def test_a_dropped_connection_is_an_error(start_server: StartServer) -> None:
    server = start_server(lambda path, body: (200, [text("a"), 0.05, "drop"]))
    sample = asyncio.run(send_to(Target(server.url, "m", Endpoint.completions)))
    assert sample.error is not None
    assert sample.error.startswith("Client")


def test_a_request_that_finds_its_connection_closed_is_sent_again(
    start_server: StartServer,
) -> None:
    server = start_server(lambda path, body: (200, [text("a", "stop"), DONE]))
    server.keep_alive = False
    target = Target(server.url, "m", Endpoint.completions)

    async def send_all() -> list[Sample]:
        async with open_session(target) as session:
            sender = LoadClient(target, session)
            first = await asyncio.gather(*(sender.send(REQUEST, 0.0) for _ in range(3)))
            assert keeps_alive(session)
            again = await asyncio.gather(*(sender.send(REQUEST, 0.0) for _ in range(3)))
            assert not keeps_alive(session)
            return [*first, *again, await sender.send(REQUEST, 0.0)]

    assert [sample.error for sample in asyncio.run(send_all())] == [None] * 7
    assert len(server.requests) == 7

    assert "Connection: close\r\n" in server.heads[-1]


def test_a_request_that_fails_on_a_new_connection_is_not_sent_again(
    start_server: StartServer,
) -> None:
    def die(path: str, body: object) -> tuple[int, list[Step]]:
        raise ConnectionError

    server = start_server(die)
    error = asyncio.run(send_to(Target(server.url, "m", Endpoint.completions))).error
    assert error is not None
    assert "ServerDisconnectedError" in error
    assert len(server.requests) == 1


def test_a_silent_server_is_an_error(start_server: StartServer) -> None:
    server = start_server(lambda path, body: (200, [text("a"), 60.0, text("b", "stop")]))
    target = Target(server.url, "m", Endpoint.completions, timeout=0.3)
    sample = asyncio.run(send_to(target))
    assert sample.error == "no answer within 0.3 s"


def test_nobody_there_is_an_error() -> None:
    error = asyncio.run(send_to(Target("http://127.0.0.1:9", "m", Endpoint.chat))).error
    assert error is not None
    assert "ClientConnectorError" in error


def test_the_api_key_is_sent(start_server: StartServer) -> None:
    server = start_server(lambda path, body: (200, [text("a", "stop"), DONE]))
    for key in ("secret", None):
        target = Target(server.url, "m", Endpoint.completions, api_key=key)
        assert asyncio.run(send_to(target)).ok
    first, second = server.heads
    assert "Authorization: Bearer secret\r\n" in first
    assert "authorization" not in second.lower()


def test_an_address_may_have_a_path(start_server: StartServer) -> None:
    server = start_server(lambda path, body: (200, [text("a", "stop"), DONE]))
    asyncio.run(send_to(Target(f"{server.url}/api", "m", Endpoint.completions)))
    assert [path for _, path, _ in server.requests] == ["/api/v1/completions"]
