"""Figures of rounds that are known."""

import pytest
from gistserve.bench.http_overhead.rounds import _check_same_work
from gistserve.bench.http_overhead.summary import summarise
from gistserve.bench.load.errors import LoadError


def arm(throughput: float, processor: float, tokens: int, **more: float) -> dict[str, object]:
    return {
        "output_throughput": throughput,
        "processor_seconds": processor,
        "output_tokens": tokens,
        "ttft_ms": {"median": 10.0},
        **more,
    }


def test_ratios_are_of_each_round_and_microseconds_of_each_token() -> None:
    rounds = [
        {
            "direct": arm(1000.0, 1.0, 10_000),
            "http": arm(500.0, 2.0, 10_000, client_processor_seconds=0.5),
        },
        {
            "direct": arm(100.0, 3.0, 10_000),
            "http": arm(90.0, 4.0, 10_000, client_processor_seconds=0.7),
        },
        {
            "direct": arm(200.0, 2.0, 20_000),
            "http": arm(140.0, 2.5, 20_000, client_processor_seconds=0.2),
        },
    ]
    found = summarise(rounds, {"idle": [1.0, 3.0], "loaded": [10.0] * 3})
    # Of the medians it would be 140 / 200.
    assert found["throughput_ratio"]["http"]["rounds"] == pytest.approx([0.5, 0.9, 0.7])
    assert found["throughput_ratio"]["http"]["median"] == pytest.approx(0.7)
    assert found["processor_ratio"]["http"]["rounds"] == pytest.approx([0.5, 0.75, 0.8])
    assert found["processor_us"]["direct"]["rounds"] == pytest.approx([100.0, 300.0, 100.0])
    assert found["client_processor_us"]["http"]["median"] == pytest.approx(50.0)
    ratio = found["throughput_ratio"]["http"]
    assert (ratio["least"], ratio["greatest"]) == (0.5, 0.9)
    assert found["health_ms"]["idle"]["mean"] == 2.0
    assert found["health_ms"]["loaded"]["p99"] == 10.0


def test_health_may_be_left_out() -> None:
    round_ = {"direct": arm(1.0, 1.0, 1), "http": arm(1.0, 1.0, 1, client_processor_seconds=1.0)}
    assert summarise([round_], None)["health_ms"] is None


@pytest.mark.parametrize("arm", ["http", "http_competing"])
@pytest.mark.parametrize("name", ["prompt_tokens", "output_tokens"])
def test_arms_that_did_other_work_are_refused(arm: str, name: str) -> None:
    same = {"prompt_tokens": 7, "output_tokens": 8}
    arms = {"direct": same, "http": dict(same), "http_competing": dict(same)}
    _check_same_work(arms)
    with pytest.raises(LoadError, match=f"{name}: 9 over HTTP, but {same[name]}"):
        _check_same_work(arms | {arm: same | {name: 9}})
