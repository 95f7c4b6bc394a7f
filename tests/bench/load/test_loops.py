"""Closed and open loops against a server of known delay."""

from __future__ import annotations

import asyncio

import pytest
from gistserve.bench.load.client import LoadClient, open_session
from gistserve.bench.load.endpoint import Endpoint
from gistserve.bench.load.loops import closed_loop, open_loop
from gistserve.bench.load.sample import Sample
from gistserve.bench.load.target import Target
from gistserve.bench.load.workload import LoadRequest

from ..fake_server import DONE, FakeServer, StartServer, text, usage

DELAY = 0.2
ANSWER = (DELAY, text("a", "length"), usage(3, 1), DONE)
REQUESTS = [LoadRequest("", None, str(number), 1) for number in range(12)]


@pytest.fixture
def server(start_server: StartServer) -> FakeServer:
    return start_server(lambda path, body: (200, ANSWER))


def run(server: FakeServer, loop, *arguments) -> list[Sample]:
    target = Target(server.url, "m", Endpoint.completions)
    seen: list[Sample] = []

    async def go() -> list[Sample]:
        async with open_session(target) as session:
            return await loop(LoadClient(target, session), REQUESTS, *arguments, seen.append)

    samples = asyncio.run(go())
    assert len(seen) == len(REQUESTS)
    assert sorted(body["prompt"] for _, _, body in server.requests) == sorted(
        request.input for request in REQUESTS
    )
    return samples


def test_a_closed_loop_keeps_its_requests_in_flight(server: FakeServer) -> None:
    samples = run(server, closed_loop, 4)
    assert server.most_in_flight == 4
    assert all(sample.ok and sample.late == 0 for sample in samples)
    # Three rounds of four: the last ones are sent when two delays have passed.
    assert max(sample.sent_at for sample in samples) > 2 * DELAY - 0.01


def test_more_workers_than_requests_send_each_request_once(server: FakeServer) -> None:
    run(server, closed_loop, 100)
    assert server.most_in_flight == len(REQUESTS)


def test_an_open_loop_waits_for_nobody(server: FakeServer) -> None:
    times = [0.05 * number for number in range(len(REQUESTS))]
    samples = run(server, open_loop, times)
    assert server.most_in_flight >= 3  # 0.2 s of requests that come every 0.05 s
    for sample, due in zip(samples, times, strict=True):
        assert due <= sample.sent_at == pytest.approx(due + sample.late)
        assert sample.late < 1.0  # even where other processes take their time
