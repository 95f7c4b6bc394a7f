"""Everything that a run found, as JSON and as text."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from .ceilings import ceilings
from .floor import Ceilings
from .gpu_tests import GpuTestReport
from .measurement import Measurement
from .standards import Verdict, judge
from .sweep_table import sweep_table
from .table import notes, section_table, standards_table


@dataclass
class SectionReport:
    """One section: how it ended, what it took, and its measurements."""

    status: str
    seconds: float
    note: str
    measurements: list[Measurement] = field(default_factory=list)


@dataclass
class Report:
    """A whole run.

    Attributes:
        device: name and properties.
        limit_s: seconds that the run had.
        dry_run: whether nothing was measured, the script only tried.
        tests: None where they were not asked for.
        sections: in the order of running.
    """

    device: dict[str, Any]
    limit_s: float
    dry_run: bool
    tests: GpuTestReport | None = None
    sections: dict[str, SectionReport] = field(default_factory=dict)

    @property
    def measurements(self) -> list[Measurement]:
        return [m for section in self.sections.values() for m in section.measurements]

    @property
    def ceilings(self) -> Ceilings:
        return ceilings(self.measurements)

    @property
    def verdicts(self) -> list[Verdict]:
        return judge(self.measurements, self.ceilings)

    def as_dict(self) -> dict[str, Any]:
        """For a result file; raw samples included."""
        return {
            "device": self.device,
            "limit_s": self.limit_s,
            "dry_run": self.dry_run,
            "ceilings": asdict(self.ceilings),
            "tests": asdict(self.tests) if self.tests else None,
            "sections": {name: asdict(section) for name, section in self.sections.items()},
            "standards": [verdict.as_dict() for verdict in self.verdicts],
        }

    def as_text(self) -> str:
        """Tables of all sections, then the standards, then the tests: the end matters most."""
        parts = [_title(self)]
        for name, section in self.sections.items():
            judged = [verdict for verdict in self.verdicts if verdict.section == name]
            parts.append(_section_text(name, section, judged, self.ceilings))
        if self.verdicts:
            parts.append(standards_table(self.verdicts))
        if self.tests is not None:
            parts.append(_tests_text(self.tests))
        return "\n\n".join(parts)


def device_slug(device: dict[str, Any]) -> str:
    """The device's name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "_", str(device["name"]).lower()).strip("_")


def _title(report: Report) -> str:
    ceiling = report.ceilings
    bandwidth = "?" if ceiling.bandwidth is None else f"{ceiling.bandwidth / 1e12:.2f} TB/s"
    rate = "?" if ceiling.matmul_rate is None else f"{ceiling.matmul_rate / 1e12:.0f} TFLOP/s"
    note = " (DRY RUN: these times mean nothing)" if report.dry_run else ""
    return f"{report.device['name']}: copy {bandwidth}, large matrix product {rate}{note}"


def _section_text(
    name: str, section: SectionReport, verdicts: list[Verdict], ceiling: Ceilings
) -> str:
    lines = [f"== {name}: {section.status} in {section.seconds:.0f} s; µs (floor's share)"]
    if section.note:
        lines.append(section.note)
    if section.measurements:
        if name.startswith("sweep"):
            lines.append(sweep_table(section.measurements))
        else:
            lines.append(section_table(section.measurements, verdicts, ceiling))
        lines += [f"  {line}" for line in notes(section.measurements)]
    return "\n".join(lines)


def _tests_text(tests: GpuTestReport) -> str:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(tests.counts.items()))
    lines = [f"gpu tests: {counts or 'none ran'}"]
    lines += [f"  failed: {failure['test']}" for failure in tests.failures]
    lines += [f"  {name}: {tests.files[name]}" for name in tests.unfinished]
    return "\n".join(lines)
