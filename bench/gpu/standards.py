"""The standards that the kernels are held to, and whether the measurements meet them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from . import attention, sparse
from .floor import Ceilings
from .measurement import Case, Measurement

Outcome = Literal["pass", "FAIL", "not measured"]

DECODE_LENGTH = 32_768
DECODE_SHARE = 0.85
PREFILL_SHARE = 0.80
NOISE = 0.03


@dataclass(frozen=True)
class Verdict:
    """One standard on one case.

    Attributes:
        section: of the measurements.
        case: what was measured.
        standard: in words, with the figure wanted.
        wanted: the least that passes.
        value: the figure measured, or None.
    """

    section: str
    case: Case
    standard: str
    wanted: float
    value: float | None

    @property
    def outcome(self) -> Outcome:
        if self.value is None:
            return "not measured"
        return "pass" if self.value >= self.wanted else "FAIL"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"outcome": self.outcome}


def judge(measurements: Sequence[Measurement], ceilings: Ceilings) -> list[Verdict]:
    """Every standard on every case of a run that it speaks of."""
    return [*_decode(measurements, ceilings), *_prefill(measurements), *_sparse(measurements)]


def _decode(measurements: Sequence[Measurement], ceilings: Ceilings) -> list[Verdict]:
    standard = f"decode at {DECODE_LENGTH} reaches {DECODE_SHARE:.0%} of the copy bandwidth"
    return [
        Verdict(m.section, m.case, standard, DECODE_SHARE, _share_of_bandwidth(m, ceilings))
        for m in measurements
        if (m.section, m.arm) == (attention.DECODE, attention.OURS)
        and m.case["length"] == DECODE_LENGTH
    ]


def _prefill(measurements: Sequence[Measurement]) -> list[Verdict]:
    standard = f"prefill reaches {PREFILL_SHARE:.0%} of scaled_dot_product_attention (flash)"
    return [
        Verdict(
            m.section, m.case, standard, PREFILL_SHARE, speed_over(m, "sdpa flash", measurements)
        )
        for m in measurements
        if (m.section, m.arm) == (attention.PREFILL, attention.OURS)
    ]


def _sparse(measurements: Sequence[Measurement]) -> list[Verdict]:
    verdicts = []
    for m in measurements:
        if (m.section, m.arm) != (sparse.SECTION, sparse.LAYER):
            continue
        speed = speed_over(m, sparse.DENSE, measurements)
        one = m.case["batch"] == 1
        if one and m.case["sparsity"] == 0.9:
            verdicts += [
                Verdict(m.section, m.case, "90% sparse, one vector: 3x over cuBLAS", 3.0, speed),
                Verdict(
                    m.section,
                    m.case,
                    "90% sparse: 6x less memory",
                    6.0,
                    m.facts.get("times_smaller"),
                ),
            ]
        elif one and m.case["sparsity"] == 0.5:
            standard = "50% sparse, one vector: 1.15x over cuBLAS"
            verdicts.append(Verdict(m.section, m.case, standard, 1.15, speed))
        else:
            standard = f"other sparse layers: never slower than cuBLAS (noise of {NOISE:.0%})"
            verdicts.append(Verdict(m.section, m.case, standard, 1 - NOISE, speed))
    return verdicts


def speed_over(ours: Measurement, arm: str, measurements: Sequence[Measurement]) -> float | None:
    """How many times faster than another arm on the same case; None without both times."""
    theirs = next(
        (m for m in measurements if (m.section, m.arm, m.case) == (ours.section, arm, ours.case)),
        None,
    )
    mine, other = ours.median_ms, theirs.median_ms if theirs else None
    return None if mine is None or other is None else other / mine


def _share_of_bandwidth(measurement: Measurement, ceilings: Ceilings) -> float | None:
    median, moved = measurement.median_ms, measurement.floor_bytes
    if median is None or moved is None or ceilings.bandwidth is None:
        return None
    return moved / (median / 1e3) / ceilings.bandwidth
