"""What a load test is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .compression import Compression
from .endpoint import Endpoint
from .point import Point
from .slo import Slo
from .workload import Workload


@dataclass(frozen=True)
class LoadSettings:
    """What is measured.

    Attributes:
        model: None for the first that the server lists.
        requests: of every point.
        warmup: requests before every point, not measured; before the first point at least one for
            each shared prompt, so that all points find a prefix cache alike. 0: none at all.
        register: register the shared prompts in this way and refer to them.
        seed: of texts, lengths and arrivals.
    """

    url: str
    workload: Workload
    points: Sequence[Point]
    model: str | None = None
    endpoint: Endpoint = Endpoint.completions
    api_key: str | None = None
    requests: int = 100
    warmup: int = 2
    register: Compression | None = None
    ignore_eos: bool = True
    slo: Slo | None = None
    seed: int = 0
    timeout: float = 600.0
