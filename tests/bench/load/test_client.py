"""The client against answers whose delays are known."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from gistserve.bench.load.client import LoadClient, open_session
from gistserve.bench.load.endpoint import Endpoint
from gistserve.bench.load.sample import Sample
from gistserve.bench.load.target import Target
from gistserve.bench.load.workload import LoadRequest

from ..fake_server import DONE, StartServer, Step, data, text, usage

REQUEST = LoadRequest("", None, "Hello", 5)
# Another process may hold a core for a while; the delays differ by more than that.
LATE = 0.08


def ask(
    start_server: StartServer,
    *steps: Step,
    status: int = 200,
    endpoint: Endpoint = Endpoint.completions,
    timeout: float = 10.0,
) -> Sample:
    server = start_server(lambda path, body: (status, steps))
    return asyncio.run(send_to(Target(server.url, "m", endpoint, timeout=timeout)))


async def send_to(target: Target) -> Sample:
    async with open_session(target) as session:
        return await LoadClient(target, session).send(REQUEST, 0.0)


def assert_near(found: float | None, known: float) -> None:
    assert found is not None
    assert known - 0.005 <= found <= known + LATE


def test_delays_are_measured_as_they_were(start_server: StartServer) -> None:
    gaps = [0.2, 0.05, 0.3]
    steps: list[Step] = [0.4, text("a")]
    for gap in gaps:
        steps += [gap, text("b", "length" if gap is gaps[-1] else None)]
    sample = ask(start_server, *steps, 0.25, usage(7, 4, cached=3), DONE)
    assert sample.error is None
    assert_near(sample.ttft, 0.4)
    assert len(sample.itl) == 3
    for found, known in zip(sample.itl, gaps, strict=True):
        assert abs(found - known) < LATE
    assert_near(sample.e2el, 0.4 + sum(gaps))  # what comes behind the answer is not waited for
    assert_near(sample.tpot and 3 * sample.tpot, sum(gaps))
    assert (sample.prompt_tokens, sample.output_tokens, sample.cached_tokens) == (7, 4, 3)


def test_a_role_and_an_end_without_text_are_no_tokens(start_server: StartServer) -> None:
    def chat(delta: dict, finish: str | None = None) -> bytes:
        return data({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    sample = ask(
        start_server,
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
    assert_near(sample.ttft, 0.3)
    assert len(sample.itl) == 1
    assert_near(sample.e2el, 0.6)


def test_several_chunks_in_a_packet_arrive_together(start_server: StartServer) -> None:
    packet = text("b") + text("c") + text("d", "length")
    sample = ask(start_server, text("a"), 0.3, packet + usage(5, 4) + DONE)
    assert len(sample.itl) == 3
    assert_near(sample.itl[0], 0.3)
    assert sample.itl[1:] == [0.0, 0.0]
    assert sample.output_tokens == 4


def test_tokens_are_counted_by_usage_and_not_by_chunks(start_server: StartServer) -> None:
    sample = ask(
        start_server, text("one two three"), 0.3, text("four five", "stop"), usage(5, 7), DONE
    )
    assert sample.output_tokens == 7
    assert len(sample.itl) == 1
    assert_near(sample.tpot and 6 * sample.tpot, 0.3)


def test_characters_and_events_may_be_split_over_packets(start_server: StartServer) -> None:
    stream = text("für") + text("…", "stop") + usage(5, 2) + DONE
    places = [0, 7, stream.index(b"\xc3") + 1, stream.index(b"\xe2") + 2, len(stream)]
    steps: list[Step] = []
    for first, last in pairwise(places):
        steps += [0.05, stream[first:last]]
    sample = ask(start_server, *steps)
    assert sample.error is None
    assert_near(sample.ttft, 0.15)  # when the event was whole
    assert sample.output_tokens == 2


def test_usage_may_come_with_every_chunk_or_be_null(start_server: StartServer) -> None:
    def chunk(words: str, tokens: int | None, finish: str | None = None) -> bytes:
        counts = tokens and {"prompt_tokens": 3, "completion_tokens": tokens}
        choice = {"index": 0, "text": words, "finish_reason": finish}
        return data({"choices": [choice], "usage": counts})

    sample = ask(start_server, chunk("a", 1), chunk("b", None), chunk("c", 3, "stop"), DONE)
    assert (sample.output_tokens, sample.prompt_tokens) == (3, 3)
    assert sample.cached_tokens is None


def test_an_answer_without_text_ends_at_its_first_token(start_server: StartServer) -> None:
    sample = ask(start_server, 0.2, text("", "stop"), usage(5, 1), DONE)
    assert sample.error is None
    assert_near(sample.ttft, 0.2)
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
    assert ask(start_server, *steps, status=status).error == error


def test_a_dropped_connection_is_an_error(start_server: StartServer) -> None:
    sample = ask(start_server, text("a"), 0.05, "drop")
    assert sample.error is not None
    assert sample.error.startswith("Client")


def test_a_silent_server_is_an_error(start_server: StartServer) -> None:
    sample = ask(start_server, text("a"), 5.0, text("b", "stop"), timeout=0.3)
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
