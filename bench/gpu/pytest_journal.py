"""A pytest plugin: every test's outcome as a JSON line, written as soon as it is known."""

from __future__ import annotations

import json
import os
from typing import Any

JOURNAL_VARIABLE = "GISTSERVE_TEST_JOURNAL"
"""The environment variable that names the file."""

_TEXT = 3000


def pytest_runtest_logreport(report: Any) -> None:
    """Called by pytest for set-up, call and tear-down of each test."""
    if report.when == "call" or report.outcome != "passed":
        _write(report, report.duration)


def pytest_collectreport(report: Any) -> None:
    """Called by pytest for each file and class whose tests it looked for."""
    if report.failed:
        _write(report, 0.0)


def _write(report: Any, seconds: float) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # the process that started this one is told as well
        return
    entry = {
        "test": report.nodeid,
        "outcome": report.outcome,
        "seconds": seconds,
        "text": report.longreprtext[-_TEXT:] if report.failed else "",
    }
    with open(os.environ[JOURNAL_VARIABLE], "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
