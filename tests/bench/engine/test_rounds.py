"""Shares and summaries, of times and rates that are known."""

import pytest
from gistserve.bench.engine.case import EngineCase, plan
from gistserve.bench.engine.costs import ModelCosts
from gistserve.bench.engine.driver import DecodeTimes, PrefillTimes
from gistserve.bench.engine.machine import Machine
from gistserve.bench.engine.rounds import EngineRounds
from gistserve.bench.engine.summary import summarise
from gistserve.bench.gpu.floor import Ceilings
from hypothesis import given
from hypothesis import strategies as st

COSTS = ModelCosts(
    weight_bytes=1000, kv_bytes_per_token=10, linear_params=7, head_params=3, attention_dims=2
)


class Driver:
    """An engine that takes known times."""

    def prefill(self, prompts: list[list[int]]) -> PrefillTimes:
        return PrefillTimes(seconds=2.0, steps=3, first_tokens=[0] * len(prompts))

    def decode(self, prompts: list[list[int]], steps: int) -> DecodeTimes:
        assert {len(prompt) for prompt in prompts} == {17}
        return DecodeTimes([500.0, 100.0, 500.0], [18, 19, 20])


class Rates:
    def __init__(self) -> None:
        self.measured = iter([Ceilings(10_000.0, 1e6), Ceilings(5000.0, 1e6)])

    def ceilings(self) -> Ceilings:
        return next(self.measured)


def test_shares_are_of_the_rates_in_the_same_round() -> None:
    rounds = EngineRounds(
        Driver(),  # type: ignore[arg-type]
        COSTS,
        Rates(),  # type: ignore[arg-type]
        vocab_size=50,
        steps=3,
        on_step=lambda _: None,
    ).run([EngineCase(batch=4, context=16)], rounds=2, seed=0)
    prefill, decode = rounds[0]["rows"]
    assert prefill["tokens_per_second"] == 4 * 16 / 2.0
    assert prefill["bytes"] == 3 * 1000
    assert prefill["share_of_bandwidth"] == pytest.approx(3000 / 10_000 / 2.0)
    assert prefill["share_of_matmul"] == pytest.approx(prefill["flops"] / 1e6 / 2.0)
    assert decode["tokens_per_second"] == pytest.approx(4 / 0.5)
    assert decode["bytes"] == 1000 + 10 * 4 * 19
    assert decode["share_of_bandwidth"] == pytest.approx(1760 / 10_000 / 0.5)

    summary = summarise(rounds)
    assert summary["bandwidth"] == {"median": 7500.0, "least": 5000.0, "greatest": 10_000.0}
    (row,) = [row for row in summary["rows"] if row["phase"] == "decode"]
    assert (row["batch"], row["context"]) == (4, 16)
    share = row["share_of_bandwidth"]
    assert share["least"] == pytest.approx(0.352)
    assert share["greatest"] == pytest.approx(0.704)


@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True),
    st.integers(1, 4096),
)
def test_every_pair_is_measured_or_left_out(
    batches: list[int], contexts: list[int], most: int
) -> None:
    cases, left_out = plan(batches, contexts, most)
    pairs = {(case.batch, case.context) for case in [*cases, *left_out]}
    assert pairs == {(batch, context) for batch in batches for context in contexts}
    assert len(cases) + len(left_out) == len(pairs)
    assert all(case.batch * case.context <= most for case in cases)
    assert all(case.batch * case.context > most for case in left_out)


def test_the_machine_is_measured_in_bytes_and_operations_a_second() -> None:
    import torch

    cpu = torch.device("cpu")
    small, large = (Machine(cpu, torch.float32, n * 2**20, 64 * n).ceilings() for n in (1, 4))
    for found in (small, large):
        assert found.bandwidth is not None and 1e8 < found.bandwidth < 1e13
        assert found.matmul_rate is not None and 1e7 < found.matmul_rate < 1e14
