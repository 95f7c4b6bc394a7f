"""Figures of samples made by hand."""

import math

import pytest
from gistserve.bench.load.errors import LoadError
from gistserve.bench.load.measures import figures, raw
from gistserve.bench.load.percentiles import summary
from gistserve.bench.load.sample import Sample
from gistserve.bench.load.slo import Slo, parse_slo
from hypothesis import given
from hypothesis import strategies as st


def percentile(values: list[float], share: float) -> float:
    """The definition: linear between the ranks around share·(n - 1)."""
    ordered = sorted(values)
    rank = share * (len(ordered) - 1)
    low, high = math.floor(rank), math.ceil(rank)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=60))
def test_percentiles_are_those_of_the_definition(values: list[float]) -> None:
    found = summary(values, scale=1.0)
    assert found is not None
    assert found["mean"] == pytest.approx(math.fsum(values) / len(values), abs=1e-3)
    for name, share in (("median", 0.5), ("p95", 0.95), ("p99", 0.99)):
        assert found[name] == pytest.approx(percentile(values, share), abs=1e-3)


def test_no_values_have_no_percentiles() -> None:
    assert summary([]) is None


def sample(ttft: float, e2el: float, output: int, **more) -> Sample:
    fields = {"sent_at": 0.0, "wanted_tokens": output, "prompt_tokens": 10, "cached_tokens": 4}
    return Sample(**fields | {"ttft": ttft, "e2el": e2el, "output_tokens": output} | more)


SAMPLES = [
    sample(0.1, 1.1, 11, itl=[0.1] * 10),
    sample(0.3, 0.9, 4, itl=[0.2] * 3, wanted_tokens=8),
    sample(0.2, 0.2, 1),
    Sample(0.0, 8, ttft=0.05, itl=[0.01], e2el=0.06, output_tokens=2, error="HTTP 500: no"),
]


def test_terms_are_those_of_the_field() -> None:
    found = figures(SAMPLES, 4.0, Slo((("ttft", 250.0), ("tpot", 150.0))))
    assert (found["requests"], found["failed"]) == (4, 1)
    assert found["errors"] == {"HTTP 500: no": 1}
    assert found["request_throughput"] == 3 / 4
    assert (found["prompt_tokens"], found["cached_tokens"]) == (30, 12)
    assert found["output_tokens"] == 16
    assert found["output_throughput"] == 4.0
    assert found["total_token_throughput"] == 46 / 4
    assert found["mean_concurrency"] == pytest.approx(2.2 / 4)
    assert found["tpot_ms"]["mean"] == pytest.approx((100 + 200) / 2)  # one token has none
    assert found["ttft_ms"]["median"] == pytest.approx(200)
    assert found["itl_ms"]["mean"] == pytest.approx(1e3 * 1.6 / 13)
    assert found["e2el_ms"]["mean"] == pytest.approx(1e3 * 2.2 / 3)
    assert (found["answers_of_other_length"], found["wanted_tokens"]) == (1, 20)
    assert found["tokens_per_chunk"] == 1.0
    # The second is late, the fourth failed, and the third meets TPOT with one token.
    assert found["goodput"] == 2 / 4


def test_what_failed_counts_nowhere_else() -> None:
    slo = Slo((("e2el", 1e6),))
    with_failure, without = figures(SAMPLES, 4.0, slo), figures(SAMPLES[:3], 4.0, slo)
    for name in ("requests", "failed", "errors"):
        with_failure.pop(name), without.pop(name)
    assert with_failure == without


def test_without_usage_there_are_no_figures_of_tokens() -> None:
    untold = Sample(0.0, 8, ttft=0.1, itl=[0.1], e2el=0.2)
    found = figures([untold, SAMPLES[0]], 1.0, None)
    for name in ("output_tokens", "output_throughput", "total_token_throughput", "prompt_tokens"):
        assert found[name] is None
    assert found["tokens_per_chunk"] is None
    assert found["goodput"] is None
    assert found["answers_of_other_length"] == 0


def test_raw_samples_are_in_columns_of_milliseconds() -> None:
    columns = raw(SAMPLES)
    assert columns["ttft_ms"] == [100.0, 300.0, 200.0, 50.0]
    assert columns["itl_ms"][1] == [200.0] * 3
    assert columns["error"] == [None, None, None, "HTTP 500: no"]
    assert {len(column) for column in columns.values()} == {4}


def test_objectives_are_read() -> None:
    slo = parse_slo(["ttft:200", "e2el:1.5e3"])
    assert slo == Slo((("ttft", 200.0), ("e2el", 1500.0)))
    assert parse_slo([]) is None
    assert slo.is_met(sample(0.2, 1.5, 5))
    assert not slo.is_met(sample(0.2001, 1.5, 5))


@pytest.mark.parametrize("text", ["ttft", "ttft:x", "itl:5", "ttft:0", "ttft:inf", "ttft:nan"])
def test_other_objectives_are_refused(text: str) -> None:
    with pytest.raises(LoadError, match="as in ttft:200"):
        parse_slo([text])
