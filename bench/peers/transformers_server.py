"""`transformers serve` with continuous batching."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from .peer import Missing, output_of
from .plan import PAGE_TOKENS, Plan

NAME = "transformers"
_REMEDY = 'pip install "transformers[serving]", here or elsewhere with --transformers COMMAND'


class TransformersServer:
    """The reference implementation's own server."""

    name = NAME
    ready_path = "/health"
    ignores_eos = False
    tells_usage = True
    reads_gguf = False

    def __init__(self, program: Sequence[str]) -> None:
        self.program = program

    def options(self, plan: Plan, port: int) -> list[str]:
        pages = plan.slots * plan.slot_tokens // PAGE_TOKENS
        return [
            *("serve", str(plan.folder), "--continuous-batching"),
            *("--dtype", plan.dtype, "--device", "cpu"),
            *("--cb-block-size", str(PAGE_TOKENS), "--cb-num-blocks", str(pages)),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]

    def model(self, plan: Plan) -> str:
        return str(plan.folder)

    def version(self) -> str:
        return output_of([*self.program, "version"]).splitlines()[-1]


def find_transformers(command: str | None) -> TransformersServer | Missing:
    """The command given, or else the one of this environment or on the PATH."""
    if command is not None:
        return TransformersServer(shlex.split(command))
    beside = Path(sys.executable).with_name("transformers")
    found = str(beside) if beside.is_file() else shutil.which("transformers")
    return TransformersServer([found]) if found else Missing(NAME, f"not found: {_REMEDY}")
