"""The server's totals, out of its metrics."""

import pytest
from gistserve.bench.load.server_metrics import agreement, read_totals

TEXT = r"""
# HELP gistserve:prompt_tokens_total Prompt tokens.
# TYPE gistserve:prompt_tokens_total counter
gistserve:prompt_tokens_total{model_name="org/a"} 120.0
gistserve:prompt_tokens_total{model_name="b \"two\""} 7
gistserve:e2e_request_latency_seconds_bucket{le="1",model_name="org/a"} 3
gistserve:e2e_request_latency_seconds_count{model_name="org/a"} 4
gistserve:e2e_request_latency_seconds_sum{model_name="org/a"} 2.5e-1
gistserve:generation_tokens_total 33
process_cpu_seconds_total 9
"""


def test_the_totals_of_one_model_are_read() -> None:
    assert read_totals(TEXT, "org/a") == {
        "prompt_tokens": 120.0,
        "requests": 4.0,
        "e2el_seconds": 0.25,
        "output_tokens": 33.0,
    }
    assert read_totals(TEXT, 'b "two"')["prompt_tokens"] == 7.0
    assert read_totals("", "org/a") == {}


def test_differences_are_compared_with_the_clients() -> None:
    before, after = {"requests": 2.0}, {"requests": 12.0, "prompt_tokens": 50.0}
    client = {"requests": 9, "prompt_tokens": 50, "ttft_seconds": 1.0}
    found = agreement(before, after, client)
    assert found is not None
    assert found["requests"] == {"client": 9, "server": 10.0, "ratio": pytest.approx(0.9)}
    assert found["prompt_tokens"]["ratio"] == 1.0
    assert "ttft_seconds" not in found
    assert agreement({}, {}, client) is None
