"""What the command line asks for: a whole run, or a child's section of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..results import write_result
from .bench import DevicePoisoned
from .budget import Deadline
from .children import POISONED
from .device import BenchDevice
from .report import Report, device_slug
from .sections import SECTIONS, TESTS
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


def run(sections: Sequence[str] | None, limit: float, output: Path | None, dry_run: bool) -> int:
    """Run tests and sections, print the tables, write the file; 1 where something is wrong."""
    names = sections or [TESTS, *SECTIONS]
    unknown = sorted(set(names) - {TESTS, *SECTIONS})
    if unknown:
        print(f"there is no section {unknown[0]!r}; choose from: {TESTS}, {', '.join(SECTIONS)}")
        return 2
    device = BenchDevice.dry_run() if dry_run else BenchDevice.cuda()
    path = output or RESULTS / f"gpu_{device_slug(device.facts())}.json"
    session = Session(device, names, limit, in_children=not dry_run)
    report = session.run(lambda partial: write_result(path, partial.as_dict()))
    print(f"\n{report.as_text()}\n\nwritten to {path}")
    return 0 if is_right(report) else 1


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
