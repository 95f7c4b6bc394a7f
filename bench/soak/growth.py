"""Whether memory grows with time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Allocators settle before they are flat.
_WARM_UP_SHARE = 0.25
_FLAT_SHARE = 0.03
_FLAT_BYTES = 16 * 1024 * 1024


def growth(samples: Sequence[dict[str, Any]]) -> dict[str, float | bool | None]:
    """A line through the resident bytes of one server's life, without its warm-up.

    Flat means that over the time watched it rises by no more than 3% or 16 MiB; None where
    there are too few samples to say.
    """
    later = samples[int(len(samples) * _WARM_UP_SHARE) :]
    if len(later) < 3:
        return {"bytes_per_second": None, "rise_bytes": None, "is_flat": None}
    seconds = np.array([sample["second"] for sample in later], dtype=float)
    resident = np.array([sample["rss_bytes"] for sample in later], dtype=float)
    slope = float(np.polyfit(seconds, resident, 1)[0])
    rise = slope * float(seconds[-1] - seconds[0])
    limit = max(_FLAT_BYTES, _FLAT_SHARE * float(resident.mean()))
    return {"bytes_per_second": slope, "rise_bytes": rise, "is_flat": rise <= limit}
