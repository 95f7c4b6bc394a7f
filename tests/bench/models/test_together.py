"""Several models under load at once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from gistserve.bench.load.client import LoadClient, open_session
from gistserve.bench.load.endpoint import Endpoint
from gistserve.bench.load.sample import Sample
from gistserve.bench.load.target import Target
from gistserve.bench.load.workload import LoadRequest
from gistserve.bench.models.together import all_together, tokens_until

from ..fake_server import DONE, StartServer, text, usage

DELAYS = {"fast": 0.02, "slow": 0.5}


def test_no_model_is_ever_left_alone(start_server: StartServer) -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return 200, [DELAYS[body["model"]], text("a", "length"), usage(3, 1), DONE]

    server = start_server(answer)

    def endless() -> Iterator[LoadRequest]:
        return (LoadRequest("", None, str(number), 1) for number in itertools.count())

    async def go() -> tuple[dict[str, list[Sample]], float]:
        target = Target(server.url, "fast", Endpoint.completions)
        async with open_session(target) as session:
            clients = {
                name: LoadClient(Target(server.url, name, Endpoint.completions), session)
                for name in DELAYS
            }
            return await all_together(clients, {name: endless() for name in DELAYS}, 4, 2)

    samples, seconds = asyncio.run(go())
    # Four requests, two at a time, are two delays of the slow model.
    ends = {
        name: sorted(sample.sent_at + (sample.e2el or 0) for sample in found)
        for name, found in samples.items()
    }
    assert seconds > 2 * DELAYS["slow"] - 0.01
    assert seconds == pytest.approx(ends["slow"][3], abs=0.3)
    assert len(samples["fast"]) > 2 * 4
    assert ends["fast"][-1] > seconds - 0.3
    # A prompt that was asked before would be found in a prefix cache.
    asked = [body["prompt"] for _, _, body in server.requests if body["model"] == "fast"]
    assert len(set(asked)) == len(asked) == len(samples["fast"])


def test_only_tokens_that_had_arrived_count() -> None:
    # Chunks at 1.0, 1.5, 2.0 and 4.0 seconds, for 8 tokens.
    sample = Sample(0.5, 8, ttft=0.5, itl=[0.5, 0.5, 2.0], e2el=3.5, output_tokens=8)
    assert tokens_until([sample], 0.9) == 0
    assert tokens_until([sample], 1.5) == pytest.approx(4)
    assert tokens_until([sample, sample], 10) == pytest.approx(16)
    failed = Sample(0.0, 8, ttft=0.1, error="no")
    assert tokens_until([sample, failed], 10) == pytest.approx(8)
    assert tokens_until([Sample(0.0, 8, ttft=0.1)], 10) is None
