"""One measurement: what was run, how long it took, and what became of it."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Case = dict[str, int | float | str]
"""What distinguishes one measurement from the others of its section and arm."""

Status = Literal["measured", "wrong", "failed", "crashed", "not reached"]
"""``wrong``: the output differs from the float64 reference, so the time would mean nothing.
``failed``: an exception. ``crashed``: it took the process or the device along, or never returned.
"""


@dataclass
class Measurement:
    """Samples of one arm on one case.

    Attributes:
        section: the part of the script that it belongs to.
        arm: what was run, ours or a peer.
        case: shapes and settings.
        status: what became of it.
        samples_ms: milliseconds a call, one entry a repetition.
        method: ``graph`` (CUDA graph of several calls), ``events`` (calls launched one by one,
            timed on the device) or ``host`` (wall clock, device waited for after each call).
        floor_bytes: the fewest bytes that a call must move through device memory.
        floor_flops: floating-point operations that a call must do.
        error: ``||out - ref|| / ||ref||`` against float64, where it was compared.
        facts: further figures, such as bytes of a format.
        note: why it was not measured.
    """

    section: str
    arm: str
    case: Case
    status: Status
    samples_ms: list[float] = field(default_factory=list)
    method: str = ""
    floor_bytes: float | None = None
    floor_flops: float | None = None
    error: float | None = None
    facts: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def median_ms(self) -> float | None:
        return statistics.median(self.samples_ms) if self.samples_ms else None

    @property
    def key(self) -> str:
        return measurement_key(self.arm, self.case)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Measurement:
        return cls(**data)


def measurement_key(arm: str, case: Case) -> str:
    """Names a measurement inside its section."""
    return f"{arm} {json.dumps(case, sort_keys=True)}"


def describe(case: Case) -> str:
    """A case for people: ``batch 8, length 512``."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in case.items())
