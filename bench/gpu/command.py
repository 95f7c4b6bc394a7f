"""What the command line asks for: a whole run, or a child's section of one."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from ..results import write_result
from .bench import DevicePoisoned
from .budget import Deadline
from .children import POISONED
from .device import BenchDevice
from .report import Report, device_slug
from .sections import SECTIONS, SWEEPS, TESTS
from .session import Session, run_section

RESULTS = Path("bench/results")


def missing_device() -> str | None:
    """Why nothing can be measured here, or None where it can."""
    if torch.cuda.is_available():
        return None
    return (
        f"no CUDA device: torch {torch.__version__} sees none. Run this on a machine with an "
        "NVIDIA GPU and a CUDA build of torch, or try the script itself with --dry-run."
    )


def section_names(chosen: Sequence[str] | None, sweep: bool) -> list[str]:
    """The sections to run: those chosen, or all of a run or of a sweep.

    Raises:
        ValueError: naming one that there is not.
    """
    known = [TESTS, *SECTIONS, *SWEEPS]
    unknown = sorted(set(chosen or ()) - set(known))
    if unknown:
        raise ValueError(f"there is no section {unknown[0]!r}; choose from: {', '.join(known)}")
    return list(chosen or (SWEEPS if sweep else [TESTS, *SECTIONS]))


def run(names: Sequence[str], limit: float, output: Path, dry_run: bool) -> int:
    """Run tests and sections, print the tables, write the file; 1 where something is wrong."""
    device = BenchDevice.dry_run() if dry_run else BenchDevice.cuda()
    session = Session(device, names, limit, in_children=not dry_run)
    report = session.run(
        lambda so_far: write_result(output, so_far.as_dict()), lambda line: print(line, flush=True)
    )
    print(f"\n{report.as_text()}\n\nwritten to {output}")
    return 0 if is_right(report) else 1


def default_output(sweep: bool, dry_run: bool) -> Path:
    """Named by the device; figures of a dry run are none, and do not lie with results."""
    if dry_run:
        return Path(tempfile.gettempdir()) / "gistserve_gpu_dry_run.json"
    kind = "gpu_sweep" if sweep else "gpu"
    return RESULTS / f"{kind}_{device_slug(BenchDevice.cuda().facts())}.json"


def is_right(report: Report) -> bool:
    """Whether every test passed and no output was wrong; speed does not count."""
    wrong = [m for m in report.measurements if m.status in ("wrong", "crashed")]
    failed = [section for section in report.sections.values() if section.status == "failed"]
    tests = report.tests is None or report.tests.passed
    return tests and not wrong and not failed


def run_child(section: str, journal: Path, limit: float, dry_run: bool) -> int:
    """Measure one section in this process, for the run that started it."""
    device = BenchDevice.dry_run() if dry_run else BenchDevice.cuda()
    try:
        run_section(section, journal, device, Deadline.after(limit))
    except DevicePoisoned:
        return POISONED
    return 0
