"""A distribution in four figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def summary(values: Sequence[float], scale: float = 1e3) -> dict[str, float] | None:
    """Mean, median, p95 and p99 of `values` times `scale` (seconds to milliseconds).

    Percentiles are interpolated linearly between the two nearest values. None of no values.
    """
    if not values:
        return None
    median, p95, p99 = np.percentile(values, (50, 95, 99))
    figures = {"mean": np.mean(values), "median": median, "p95": p95, "p99": p99}
    return {name: round(float(value) * scale, 4) for name, value in figures.items()}
