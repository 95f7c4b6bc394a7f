"""What a section measures with: checked outputs, timed calls, and a deadline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .budget import Deadline
from .device import BenchDevice
from .journal import Journal
from .measurement import Case, Measurement, Status
from .timing import Call, Method, Timer

TOLERANCE = 1e-2
"""Of ``||out - ref|| / ||ref||`` against float64, for bfloat16."""

_CRASHES_OF_AN_ARM = 2


@dataclass(frozen=True)
class Prepared:
    """Calls over inputs that are ready, and what is known of them.

    Attributes:
        calls: each over inputs of its own.
        reference: gives the first call's output in float64; called after it.
        floor_bytes: the fewest that a call must move, where only the inputs tell.
        facts: further figures.
    """

    calls: Sequence[Call]
    reference: Callable[[], Tensor] | None = None
    floor_bytes: float | None = None
    facts: dict[str, float] = field(default_factory=dict)


class DevicePoisoned(RuntimeError):
    """The device answers nothing any more: only a new process can go on."""


class Bench:
    """Measures the arms of one section, each on its own: one that fails leaves the others be.

    Args:
        device: where, and how large.
        timer: how.
        journal: where results go; what it holds already is not measured again.
        deadline: after which nothing new is begun.
    """

    def __init__(
        self, device: BenchDevice, timer: Timer, journal: Journal, deadline: Deadline
    ) -> None:
        self.device = device
        self._timer = timer
        self._journal = journal
        self._deadline = deadline

    def measure(
        self,
        arm: str,
        case: Case,
        prepare: Callable[[], Prepared],
        *,
        method: Method = "graph",
        floor_bytes: float | None = None,
        floor_flops: float | None = None,
    ) -> Measurement:
        """Check and time one arm on one case; never raises but for a dead device.

        ``prepare`` runs only if the measurement does. Its failure, a wrong output (see
        ``TOLERANCE``) and a lack of time or memory are results, too.

        Raises:
            DevicePoisoned: the device does not work any more.
        """
        result = Measurement(
            self._journal.section,
            arm,
            case,
            "measured",
            floor_bytes=floor_bytes,
            floor_flops=floor_flops,
        )
        if (known := self._journal.find(arm, case)) is not None:
            return known
        if self._journal.crashes(arm) >= _CRASHES_OF_AN_ARM:
            return self._end(result, "failed", "not tried: it crashed twice before")
        if self._deadline.reached:
            return self._end(result, "not reached", "out of time")
        self._journal.begin(arm, case)
        try:
            self._run(result, prepare(), method)
        except torch.OutOfMemoryError:
            self._end(result, "failed", "out of device memory")
        except Exception as error:
            self._end_failed(result, error)
        else:
            self._journal.record(result)
        if self.device.device.type == "cuda":
            torch.cuda.empty_cache()
        return result

    def _run(self, result: Measurement, prepared: Prepared, method: Method) -> None:
        result.facts = prepared.facts
        if prepared.floor_bytes is not None:
            result.floor_bytes = prepared.floor_bytes
        if prepared.reference is not None:
            result.error = _relative_error(prepared.calls[0], prepared.reference)
            if not result.error <= TOLERANCE:
                result.status = "wrong"
                result.note = f"differs from float64 by {result.error:.2g}"
                return
        timing = self._timer(prepared.calls, method=method)
        result.samples_ms, result.method = timing.samples_ms, timing.method

    def _end(self, result: Measurement, status: Status, note: str) -> Measurement:
        result.status, result.note = status, note
        return self._journal.record(result)

    def _end_failed(self, result: Measurement, error: Exception) -> None:
        text = str(error).strip().splitlines() or [""]
        note = f"{type(error).__name__}: {text[0][:300]}"
        try:
            if self.device.device.type == "cuda":
                torch.cuda.synchronize()
        except RuntimeError as dead:
            self._end(result, "crashed", note)
            raise DevicePoisoned(note) from dead
        self._end(result, "failed", note)


def _relative_error(call: Call, reference: Callable[[], Tensor]) -> float:
    """Of a second run, whose output's memory most likely held NaN before."""
    output = call()
    poison = torch.full_like(output, float("nan"))
    del output, poison
    output, expected = call().double(), reference()
    return float((output - expected).norm() / expected.norm())
