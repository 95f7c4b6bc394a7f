"""One run: tests and sections within the time, and the report after each of them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .bench import Bench
from .budget import Budget, Deadline
from .children import SectionEnd, child_command, run_in_children
from .device import BenchDevice
from .gpu_tests import GpuTestReport, find_gpu_tests, run_tests
from .journal import Journal
from .report import Report, SectionReport
from .sections import SECTIONS, SWEEPS, TESTS, TESTS_SHARE, Section
from .timing import CudaTimer, HostTimer, Timer

Say = Callable[[str], None]


@dataclass(frozen=True)
class Session:
    """What to run, and within which time.

    Attributes:
        device: that is measured.
        names: of sections, and "tests".
        limit: seconds for everything.
        in_children: whether each section gets a process of its own, as it must on a GPU.
    """

    device: BenchDevice
    names: Sequence[str]
    limit: float
    in_children: bool = True

    def run(self, save: Callable[[Report], None], say: Say) -> Report:
        """Run everything; ``save`` is given the report after each part, ``say`` a line."""
        report = Report(self.device.facts(), self.limit, self.device.tiny)
        sections = SECTIONS | SWEEPS
        shares = {TESTS: TESTS_SHARE} | {name: s.share for name, s in sections.items()}
        budget = Budget(self.limit, {n: share for n, share in shares.items() if n in self.names})
        save(report)  # a place that cannot be written is told now, not at the end
        with tempfile.TemporaryDirectory() as folder:
            if TESTS in self.names:
                report.tests = self._tests(Path(folder), budget.deadline(TESTS))
                say(f"tests: {report.tests.counts}")
                save(report)
            for section in sections.values():
                if section.name in self.names:
                    done = self._section(section, Path(folder), budget.deadline(section.name))
                    report.sections[section.name] = done
                    say(f"{section.name}: {done.status} in {done.seconds:.0f} s")
                    save(report)
        return report

    def _tests(self, folder: Path, deadline: Deadline) -> GpuTestReport:
        logs = folder / TESTS
        logs.mkdir()
        try:
            return run_tests(find_gpu_tests(), logs, deadline)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            return GpuTestReport(files={TESTS: "failed"}, output={TESTS: text})

    def _section(self, section: Section, folder: Path, deadline: Deadline) -> SectionReport:
        begun = time.monotonic()
        path = folder / f"{section.name}.jsonl"
        try:
            if self.in_children:
                command = child_command(section.name, path, dry_run=self.device.tiny)
                end = run_in_children(section.name, command, path, deadline, section.stall)
                # What no child came to is recorded here: nothing runs once the time is over.
                over = Deadline(float("-inf"))
                run_section(section.name, path, self.device, over)
            else:
                run_section(section.name, path, self.device, deadline)
                end = SectionEnd("done")
        except Exception as error:
            end = SectionEnd("failed", f"{type(error).__name__}: {error}")
        seconds = time.monotonic() - begun
        measurements = Journal(path, section.name).measurements
        return SectionReport(end.status, seconds, end.note, measurements)


def run_section(name: str, journal: Path, device: BenchDevice, deadline: Deadline) -> None:
    """Measure one section in this process.

    Raises:
        DevicePoisoned: the device does not work any more.
    """
    timer: Timer = HostTimer() if device.device.type == "cpu" else CudaTimer()
    (SECTIONS | SWEEPS)[name].run(Bench(device, timer, Journal(journal, name), deadline))
