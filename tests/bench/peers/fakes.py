"""Peers whose program is the fake one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gistserve.bench.peers.plan import Plan


def fake_program(*options: str) -> list[str]:
    """The words that start the fake server, but for its port."""
    return [sys.executable, str(Path(__file__).with_name("fake_program.py")), *options]


class FakePeer:
    """A peer by any name."""

    ready_path = "/health"
    ignores_eos = True
    tells_usage = True
    reads_gguf = False

    def __init__(self, name: str, *options: str) -> None:
        self.name = name
        self.program: Sequence[str] = fake_program(*options)

    def options(self, plan: Plan, port: int) -> list[str]:
        return ["--model", str(plan.folder), "--port", str(port)]

    def model(self, plan: Plan) -> str:
        return "bench"

    def version(self) -> str:
        return f"{self.name} 1.0"
