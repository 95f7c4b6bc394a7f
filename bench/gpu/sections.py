"""What is measured, in which order, and how long it may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import attention, ceilings, decode_step, sparse, sweep
from .bench import Bench

TESTS = "tests"


@dataclass(frozen=True)
class Section:
    """A part of the script that runs in a process of its own.

    Attributes:
        name: in results and on the command line.
        share: about the seconds it may take; all shares scale with the limit.
        run: measures everything. Whatever needs the device happens inside ``Bench.measure``.
        stall: seconds after which a single measurement counts as hanging.
    """

    name: str
    share: float
    run: Callable[[Bench], None]
    stall: float = 45.0


def _by_name(*sections: Section) -> dict[str, Section]:
    return {section.name: section for section in sections}


TESTS_SHARE = 140.0
"""As that of a section."""

SECTIONS = _by_name(
    Section(ceilings.SECTION, 25, ceilings.run),
    Section(attention.DECODE, 60, attention.run_decode),
    Section(attention.PREFILL, 35, attention.run_prefill),
    Section(sparse.SECTION, 110, sparse.run),
    Section(decode_step.SECTION, 95, decode_step.run, stall=100.0),
)
"""What a run measures, unless told otherwise."""

SWEEPS = _by_name(
    Section(sweep.ATTENTION, 180, sweep.run_attention),
    Section(sweep.SEGMENTED, 150, sweep.run_segmented),
    Section(sweep.BITMAP, 150, sweep.run_bitmap),
)
"""What a run tries with ``--sweep``: settings other than the kernels choose."""
