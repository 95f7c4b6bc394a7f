"""What the device itself reaches: the copy bandwidth and the matrix rate that others are put to."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .bench import Bench, Prepared
from .floor import Ceilings
from .measurement import Measurement

SECTION = "ceilings"


def run(bench: Bench) -> None:
    """Measure a large copy and a large matrix product on random data."""
    device, itemsize = bench.device, bench.device.dtype.itemsize
    elements = 2**14 if device.tiny else 2**29
    size = 64 if device.tiny else 8192

    def copy() -> Prepared:
        source = device.randn(elements)
        target = torch.empty_like(source)
        return Prepared([lambda: target.copy_(source)])

    def product() -> Prepared:
        left, right = (device.randn(size, size) for _ in range(2))
        return Prepared([lambda: left @ right])

    moved = 2.0 * elements * itemsize
    bench.measure("copy", {"bytes": elements * itemsize}, copy, floor_bytes=moved)
    bench.measure("matmul", {"size": size}, product, floor_flops=2.0 * size**3)


def ceilings(measurements: Sequence[Measurement]) -> Ceilings:
    """The rates that were measured."""
    rates = {m.arm: _rate(m) for m in measurements if m.section == SECTION}
    return Ceilings(rates.get("copy"), rates.get("matmul"))


def _rate(measurement: Measurement) -> float | None:
    median = measurement.median_ms
    amount = measurement.floor_bytes or measurement.floor_flops
    return None if median is None or amount is None else amount / median * 1e3
