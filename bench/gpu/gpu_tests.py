"""Runs the tests marked ``gpu``, a process a file, and counts what became of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from .budget import Deadline
from .process import kill_group, tail
from .pytest_journal import JOURNAL_VARIABLE

TESTS = Path(__file__).parents[2] / "tests"

_MARK = "mark.gpu"
_BY_MEMORY = "gpu_memory_utilization"

_TOGETHER = 4
_PARTS = 3
_POLL_S = 0.1


@dataclass
class GpuTestReport:
    """What became of the tests.

    Attributes:
        counts: tests by outcome.
        failures: test and text of each that failed.
        files: file to its exit status ("killed" at the deadline, or never begun: "not reached").
        output: the last lines of files that failed as a whole.
    """

    counts: dict[str, int] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    files: dict[str, int | str] = field(default_factory=dict)
    output: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether tests ran, and every one of every file passed."""
        return self.counts.get("passed", 0) > 0 and not self.unfinished and not self.failures

    @property
    def unfinished(self) -> list[str]:
        """Files of which not every test was run."""
        return [name for name, status in self.files.items() if status not in (0, 1)]


def find_gpu_tests(root: Path = TESTS) -> list[Path]:
    """Test files that mark something ``gpu``, themselves or by a module of theirs that does.

    None where the package lies without its tests.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))}
    marking = {path for path, text in texts.items() if _MARK in text}
    helpers = {path.stem for path in marking if not path.name.startswith("test_")}
    uses_helper = re.compile(rf"^from \S*\b({'|'.join(map(re.escape, helpers))})\b", re.MULTILINE)
    return [
        path
        for path, text in texts.items()
        if path.name.startswith("test_")
        and (path in marking or (helpers and uses_helper.search(text)))
    ]


def run_tests(paths: Sequence[Path], folder: Path, deadline: Deadline) -> GpuTestReport:
    """Run the files' ``gpu`` tests until the deadline, with logs in ``folder``.

    Those that size something by the memory that is free run first and one by one, for up to half
    of the time. Kernels compile on the host, so the others run beside each other, and with
    pytest-xdist parts of a file as well.
    """
    alone = [path for path in paths if _BY_MEMORY in path.read_text(encoding="utf-8")]
    together = [path for path in paths if path not in alone]
    report = GpuTestReport()
    half = Deadline(deadline.at - deadline.seconds_left / 2, deadline.clock)
    _run_together(alone, 1, folder, half, report)
    _run_together(together, _TOGETHER, folder, deadline, report)
    _read_outcomes(report, folder)
    return report


class _FileRun:
    """One pytest process."""

    def __init__(self, path: Path, folder: Path, options: Sequence[str]) -> None:
        self.path = path
        self._log = folder / f"{_name(path)}.log"
        self._file: IO[str] = self._log.open("w", encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "--tb=short", *options]
        command += ["-p", "gistserve.bench.gpu.pytest_journal", "-p", "no:cacheprovider"]
        self.process = subprocess.Popen(
            [*command, str(path)],
            stdout=self._file,
            stderr=subprocess.STDOUT,
            env=_environment() | {JOURNAL_VARIABLE: str(folder / f"{_name(path)}.jsonl")},
            start_new_session=True,
        )

    def end(self, report: GpuTestReport, status: int | str) -> None:
        self._file.close()
        report.files[_name(self.path)] = status
        if status not in (0, 1, 5):
            report.output[_name(self.path)] = tail(self._log)


def _environment() -> dict[str, str]:
    """Ours, without what would make pytest take itself for a worker of a pytest around it."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST_")}


def _run_together(
    paths: Sequence[Path], most: int, folder: Path, deadline: Deadline, report: GpuTestReport
) -> None:
    waiting, running = list(paths), list[_FileRun]()
    parts = ["-n", str(_PARTS)] if most > 1 and find_spec("xdist") is not None else []
    while (waiting or running) and not deadline.reached:
        while waiting and len(running) < most:
            running.append(_FileRun(waiting.pop(0), folder, parts))
        time.sleep(_POLL_S)
        for run in list(running):
            status = run.process.poll()
            if status is not None:
                running.remove(run)
                run.end(report, 0 if status == 5 else status)  # 5: nothing was marked after all
    for run in running:
        kill_group(run.process)
        run.end(report, "killed")
    report.files |= {_name(path): "not reached" for path in waiting}


def _read_outcomes(report: GpuTestReport, folder: Path) -> None:
    counts: Counter[str] = Counter()
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            outcome: dict[str, Any] = json.loads(line)
            counts[outcome["outcome"]] += 1
            if outcome["outcome"] == "failed":
                report.failures.append({"test": outcome["test"], "text": outcome["text"]})
    report.counts = dict(counts)


def _name(path: Path) -> str:
    return "_".join(path.relative_to(TESTS).parts if path.is_relative_to(TESTS) else [path.name])
