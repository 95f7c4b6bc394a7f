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
    if report.when != "call" and report.outcome == "passed":
        return
    entry = {
        "test": report.nodeid,
        "outcome": report.outcome,
        "seconds": report.duration,
        "text": report.longreprtext[-_TEXT:] if report.failed else "",
    }
    with open(os.environ[JOURNAL_VARIABLE], "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
