"""Medians, spreads and pairwise ratios."""

from __future__ import annotations

from typing import Any

import pytest
from gistserve.bench.peers.report import remarks
from gistserve.bench.peers.summary import summarise


def figures(
    throughput: float, processor: float | None = 1.0, client: float = 0.1
) -> dict[str, Any]:
    return {
        "output_throughput": throughput,
        "ttft_ms": 10 * throughput,
        "tpot_ms": None,
        "processor_ms_per_token": processor,
        "client_processor_share": client,
    }


def measurement(number: int, concurrency: int, **servers: dict[str, Any]) -> dict[str, Any]:
    return {"round": number, "concurrency": concurrency, "servers": servers}


def test_ratios_are_taken_within_rounds() -> None:
    found = summarise(
        [
            measurement(1, 1, them=figures(10.0), us=figures(20.0)),
            measurement(2, 1, them=figures(1.0), us=figures(4.0)),
            measurement(3, 1, them=figures(2.0), us=figures(2.0)),
        ],
        "us",
    )
    assert [entry["server"] for entry in found] == ["us", "them"]
    ours, theirs = found
    assert ours["output_throughput_ratio"] is None
    assert ours["output_throughput"] == {
        "median": 4.0,
        "least": 2.0,
        "greatest": 20.0,
        "rounds": [20.0, 4.0, 2.0],
    }
    assert theirs["output_throughput_ratio"]["rounds"] == [2.0, 4.0, 1.0]
    assert theirs["output_throughput_ratio"]["median"] == 2.0
    assert theirs["ttft_ms_ratio"]["rounds"] == [2.0, 4.0, 1.0]
    assert theirs["tpot_ms"] is theirs["tpot_ms_ratio"] is None


def test_loads_are_apart_and_refused_measurements_count_nowhere() -> None:
    found = summarise(
        [
            measurement(1, 8, us=figures(8.0, processor=None), them=figures(4.0)),
            measurement(1, 1, us=figures(1.0), them=figures(1.0)),
            {"round": 2, "concurrency": 8, "refused": "because"},
        ],
        "us",
    )
    assert [(entry["concurrency"], entry["server"]) for entry in found] == [
        (1, "us"),
        (1, "them"),
        (8, "us"),
        (8, "them"),
    ]
    assert found[3]["output_throughput"]["rounds"] == [4.0]
    assert found[2]["processor_ms_per_token"] is None
    assert found[3]["processor_ms_per_token_ratio"] is None


@pytest.mark.parametrize(("share", "told"), [(0.5, False), (0.95, True)])
def test_what_puts_figures_in_doubt_is_told(share: float, told: bool) -> None:
    result = {
        "missing": {"llama.cpp": "not found: build it"},
        "measurements": [
            measurement(1, 1, us=figures(1.0), them=figures(1.0, client=share)),
            {"round": 2, "concurrency": 8, "refused": "them counted 1 + 2 tokens"},
        ],
    }
    lines = list(remarks(result))
    assert lines[0] == "llama.cpp takes no part: not found: build it"
    assert lines[1] == "round 2, 8 at a time is left out: them counted 1 + 2 tokens."
    assert any("busy up to 95%" in line for line in lines) is told
