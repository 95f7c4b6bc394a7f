"""Load on our own server: the client's figures are those of the server's metrics."""

from __future__ import annotations

from typing import Any

import pytest
from gistserve.bench.load.compression import Compression
from gistserve.bench.load.endpoint import Endpoint
from gistserve.bench.load.lengths import parse_lengths
from gistserve.bench.load.point import Point
from gistserve.bench.load.run import measure_load
from gistserve.bench.load.settings import LoadSettings
from gistserve.bench.load.workload import Workload
from rich.console import Console

REQUESTS = 8
# A request is a moment on its way to the server, and its last token on the way back. A busy
# machine makes that long beside answers as short as these.
ON_THE_WAY = 0.1


def measure(url: str, prompts: int = 0, **more: Any) -> dict[str, Any]:
    inputs, outputs, shared = map(parse_lengths, ("uniform:20,60", "uniform:30,60", "60"))
    fields = {"model": "teacher", "points": (Point(2),), "requests": REQUESTS} | more
    workload = Workload(inputs, outputs, prompts, shared)
    settings = LoadSettings(url=url, workload=workload, **fields)
    return measure_load(settings, Console(quiet=True))


@pytest.mark.parametrize("endpoint", Endpoint)
def test_client_and_server_count_the_same(live_server: str, endpoint: Endpoint) -> None:
    points = (Point(2), Point(rate=20.0))
    result = measure(live_server, endpoint=endpoint, points=points)
    for point in result["points"]:
        assert (point["failed"], point["answers_of_other_length"]) == (0, 0)
        server = point["server"]
        assert server["requests"] == {"client": REQUESTS, "server": REQUESTS, "ratio": 1.0}
        for name in ("prompt_tokens", "output_tokens"):
            assert server[name]["client"] == server[name]["server"] > 0
        for name in ("ttft_seconds", "e2el_seconds"):
            theirs = server[name]["server"]
            assert theirs <= server[name]["client"] <= 1.02 * theirs + REQUESTS * ON_THE_WAY


def test_shared_prompts_are_found_in_the_cache_or_registered(live_server: str) -> None:
    plain = measure(live_server, prompts=2)
    point = plain["points"][0]
    assert point["cached_tokens"] > 0.3 * point["prompt_tokens"]
    gist = measure(live_server, prompts=2, register=Compression.gist, endpoint=Endpoint.chat)
    assert gist["registered"]["method"] == "gist"
    assert gist["registered"]["slots"] == [5, 5]  # four gist tokens and the raw first one
    point = gist["points"][0]
    assert point["failed"] == 0
    # Gist or not, usage tells the tokens that the prompts have.
    assert point["prompt_tokens"] > REQUESTS * min(gist["registered"]["prompt_tokens"])
