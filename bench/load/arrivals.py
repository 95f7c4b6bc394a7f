"""When the requests of an open loop are sent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def arrival_times(
    count: int, rate: float, burstiness: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Seconds from the start at which `count` requests are due, ascending.

    The gaps are drawn from a gamma distribution of mean ``1 / rate`` and shape `burstiness`:
    1 makes a Poisson process, less makes bursts (the gaps' squared coefficient of variation is
    ``1 / burstiness``), more makes them even.
    """
    gaps = rng.gamma(burstiness, 1.0 / (rate * burstiness), count)
    return np.cumsum(gaps)
