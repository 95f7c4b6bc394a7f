"""`gistserve serve` of this environment."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ... import __version__
from .peer import MODEL_NAME
from .plan import Plan


class OurServer:
    """The server that the others are compared with."""

    name = "gistserve"
    program: Sequence[str] = (sys.executable, "-m", "gistserve.server.cli", "serve")
    ready_path = "/health"
    ignores_eos = True
    tells_usage = True
    reads_gguf = False

    def options(self, plan: Plan, port: int) -> list[str]:
        cache = plan.slots * plan.slot_tokens * plan.kv_bytes_per_token
        return [
            *("--model", f"{MODEL_NAME}={plan.folder}", "--dtype", plan.dtype, "--device", "cpu"),
            *("--max-num-seqs", str(plan.slots), "--max-model-len", str(plan.slot_tokens)),
            *("--kv-cache-memory", str(cache), "--store", str(plan.work / "prompts")),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]

    def model(self, plan: Plan) -> str:
        return MODEL_NAME

    def version(self) -> str:
        return __version__
