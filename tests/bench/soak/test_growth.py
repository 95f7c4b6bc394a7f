"""Whether a line through resident bytes is told flat."""

import numpy as np
import pytest
from gistserve.bench.soak.growth import growth

MIB = 2**20


def samples(rise: float, count: int = 40, base: float = 500 * MIB) -> list[dict[str, float]]:
    noise = np.random.default_rng(0).normal(0, MIB, count)
    warm_up = np.concatenate([np.linspace(-200 * MIB, 0, count // 4), np.zeros(count - count // 4)])
    return [
        {"second": 10.0 * i, "rss_bytes": base + rise * i / count + noise[i] + warm_up[i]}
        for i in range(count)
    ]


@pytest.mark.parametrize(("rise", "flat"), [(0, True), (10 * MIB, True), (80 * MIB, False)])
def test_growth_after_the_warm_up_counts(rise: float, flat: bool) -> None:
    found = growth(samples(rise))
    assert found["is_flat"] is flat
    assert found["bytes_per_second"] == pytest.approx(rise / 400, abs=MIB / 100)
    assert found["rise_bytes"] == pytest.approx(rise * 0.75, abs=3 * MIB)


def test_too_few_samples_say_nothing() -> None:
    assert growth(samples(0)[:2])["is_flat"] is None
