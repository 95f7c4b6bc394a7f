"""llama.cpp: its own server, or that of its Python bindings."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from .peer import MODEL_NAME, Missing, output_of
from .plan import Plan

NAME = "llama.cpp"
_MODULE = "llama_cpp.server"
_REMEDY = (
    "build llama-server (https://github.com/ggml-org/llama.cpp) and put it on the PATH or give "
    "--llama-server PATH; pip install llama-cpp-python[server] is found too, but answers one "
    "request at a time"
)
# The types of a KV cache, as the server and (by ggml's numbers) the bindings have them.
_CACHE_TYPES = {"float32": ("f32", "0"), "bfloat16": ("bf16", "30")}


class LlamaServer:
    """`llama-server`, which batches continuously."""

    name = NAME
    ready_path = "/health"
    ignores_eos = True
    tells_usage = True
    reads_gguf = True

    def __init__(self, program: Sequence[str]) -> None:
        self.program = program

    def options(self, plan: Plan, port: int) -> list[str]:
        cache_type, _ = _CACHE_TYPES[plan.dtype]
        return [
            *("--model", str(plan.gguf), "--alias", MODEL_NAME),
            *("--threads", str(plan.threads), "--threads-batch", str(plan.threads)),
            *("--parallel", str(plan.slots), "--cont-batching"),
            *("--ctx-size", str(plan.slots * plan.slot_tokens)),
            *("--cache-type-k", cache_type, "--cache-type-v", cache_type),
            # No copies of finished requests' caches: no request here begins like another.
            *("--cache-ram", "0"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]

    def model(self, plan: Plan) -> str:
        return MODEL_NAME

    def version(self) -> str:
        lines = output_of([*self.program, "--version"]).splitlines()
        return next((line for line in lines if line.startswith("version")), lines[-1])


class LlamaBindings:
    """`python -m llama_cpp.server`, which answers one request after the other."""

    name = f"{NAME} (Python)"
    ready_path = "/v1/models"
    ignores_eos = False
    tells_usage = False
    reads_gguf = True

    def __init__(self, program: Sequence[str]) -> None:
        self.program = program

    def options(self, plan: Plan, port: int) -> list[str]:
        _, cache_type = _CACHE_TYPES[plan.dtype]
        return [
            *("--model", str(plan.gguf), "--model_alias", MODEL_NAME),
            *("--n_threads", str(plan.threads), "--n_threads_batch", str(plan.threads)),
            *("--n_ctx", str(plan.slot_tokens), "--type_k", cache_type, "--type_v", cache_type),
            # Otherwise a request that arrives ends the one under way.
            *("--interrupt_requests", "false"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]

    def model(self, plan: Plan) -> str:
        return MODEL_NAME

    def version(self) -> str:
        code = "import llama_cpp; print('llama-cpp-python', llama_cpp.__version__)"
        return output_of([self.program[0], "-c", code]).splitlines()[-1]


def find_llama(command: str | None) -> LlamaServer | LlamaBindings | Missing:
    """The command given, or else llama-server on the PATH, or else the bindings installed here."""
    if command is not None:
        program = shlex.split(command)
        return LlamaBindings(program) if _MODULE in program else LlamaServer(program)
    if found := shutil.which("llama-server"):
        return LlamaServer([found])
    if find_spec("llama_cpp") is not None:
        return LlamaBindings([sys.executable, "-m", _MODULE])
    return Missing(NAME, f"not found: {_REMEDY}")
