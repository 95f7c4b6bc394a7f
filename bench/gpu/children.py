"""Runs a section in child processes: a dead device or a hanging kernel ends only a child."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from .budget import Deadline
from .journal import Journal
from .process import kill_group, tail

POISONED = 3
"""Exit status of a child that gave up because the device answers nothing any more."""

_MOST_CHILDREN = 5
_GRACE_S = 5.0
_POLL_S = 0.1

Ending = Literal["exited", "out of time", "hanging"]


class SectionEnd(NamedTuple):
    """How a section ended: "done", "cut short" by its deadline, or "failed" with a text."""

    status: Literal["done", "cut short", "failed"]
    note: str = ""


def child_command(section: str, journal: Path, *, dry_run: bool) -> list[str]:
    """The command line of a child; the seconds that it has come last."""
    options = ["--dry-run"] if dry_run else []
    child = ["--child", section, "--journal", str(journal), "--limit"]
    return [sys.executable, "-m", "gistserve.bench.gpu", *options, *child]


def run_in_children(
    section: str, command: Sequence[str], journal: Path, deadline: Deadline, stall: float
) -> SectionEnd:
    """Run ``command SECONDS`` until it ends well; what crashed or hung is left out the next time.

    Args:
        section: whose journal it is.
        command: of a child that goes on with the journal where the last one stopped.
        journal: file of the section's results.
        deadline: after which the child is killed, a few seconds late.
        stall: seconds without a new line in the journal after which the child counts as hanging.
    """
    log = journal.with_suffix(".log")
    for _ in range(_MOST_CHILDREN):
        if deadline.reached:
            return SectionEnd("cut short")
        with log.open("a", encoding="utf-8") as output:
            child = subprocess.Popen(
                [*command, f"{deadline.seconds_left:.1f}"],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            ending = _watch(child, journal, deadline, stall)
        results = Journal(journal, section)
        if ending == "out of time":
            results.close("cut off at the deadline", "not reached")
            return SectionEnd("cut short")
        if child.returncode == 0:
            return SectionEnd("done")
        why = f"did not end in {stall:.0f} s" if ending == "hanging" else _died(child.returncode)
        if not results.close(why) and child.returncode != POISONED:
            return SectionEnd("failed", f"{why}: {tail(log)}")
    return SectionEnd("failed", f"gave up after {_MOST_CHILDREN} crashes: {tail(log)}")


def _watch(
    child: subprocess.Popen[bytes], journal: Path, deadline: Deadline, stall: float
) -> Ending:
    size, since = -1, time.monotonic()
    while child.poll() is None:
        if Deadline(deadline.at + _GRACE_S, deadline.clock).reached:
            kill_group(child)
            return "out of time"
        now = journal.stat().st_size if journal.exists() else 0
        if now != size:
            size, since = now, time.monotonic()
        if time.monotonic() - since > stall:
            kill_group(child)
            return "hanging"
        time.sleep(_POLL_S)
    return "exited"


def _died(status: int) -> str:
    return f"the process ended by signal {-status}" if status < 0 else f"exit status {status}"
