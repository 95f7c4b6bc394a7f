"""Child processes: ending them with all they started, and reading what they said last."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

_TAIL = 2000


def kill_group(process: subprocess.Popen[Any]) -> None:
    """End a process that leads its own session, and all of that session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(path: Path) -> str:
    """The last characters of a log."""
    return path.read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip()
