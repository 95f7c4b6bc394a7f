"""The time under which no implementation can get: bytes over bandwidth, operations over rate."""

from __future__ import annotations

from dataclasses import dataclass

from .measurement import Measurement


@dataclass(frozen=True)
class Ceilings:
    """What the device reached in the same run; None where that was not measured.

    Attributes:
        bandwidth: bytes a second of a large copy, those read and those written.
        matmul_rate: floating-point operations a second of a large bfloat16 product.
    """

    bandwidth: float | None
    matmul_rate: float | None

    def floor_ms(self, measurement: Measurement) -> float | None:
        """Milliseconds that the larger of the measurement's two needs takes at the least."""
        needs = [
            amount / rate * 1e3
            for amount, rate in (
                (measurement.floor_bytes, self.bandwidth),
                (measurement.floor_flops, self.matmul_rate),
            )
            if amount is not None and rate is not None
        ]
        return max(needs, default=None)
