"""Compiles a Triton kernel for a GPU that is not there, and reads the machine code.

Registers, spills, shared memory and instructions are decided by the compiler, so they can be tested
on any Linux machine. The compiler runs in a process of its own: it refuses to work under
``TRITON_INTERPRET=1``, and a failure inside LLVM ends its process without an exception.
"""

import atexit
import functools
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+)")
_SASS_LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
_PREDICATE = re.compile(r"^@!?U?P\w+\s+")
_BRANCH_TARGET = re.compile(r"0x([0-9a-f]+)\s*$")

_TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.uint8: "u8",
    torch.int32: "i32",
    torch.int64: "i64",
}


class CompilationError(AssertionError):
    """Triton, LLVM or ptxas refused the kernel."""


@dataclass(frozen=True)
class Instruction:
    """One machine instruction; ``opcode`` carries its modifiers (``LDG.E.128``)."""

    address: int
    opcode: str
    text: str

    @property
    def mnemonic(self) -> str:
        return self.opcode.split(".")[0]

    @property
    def branch_target(self) -> int | None:
        match = _BRANCH_TARGET.search(self.text) if self.mnemonic == "BRA" else None
        return int(match.group(1), 16) if match else None


@dataclass(frozen=True)
class CompiledKernel:
    """What ptxas made of a kernel.

    ``registers`` are 32-bit registers a thread; ``shared_bytes`` is shared memory a program;
    ``stack_bytes`` is local memory a thread, which is where spills go.
    """

    registers: int
    stack_bytes: int
    shared_bytes: int
    instructions: tuple[Instruction, ...]

    @property
    def num_instructions(self) -> int:
        return len(self.instructions)

    @property
    def num_spills(self) -> int:
        """Loads from and stores to local memory."""
        return self.count("LDL", "STL")

    @property
    def opcodes(self) -> Counter[str]:
        return Counter(i.opcode for i in self.instructions)

    @property
    def loops(self) -> tuple[tuple[Instruction, ...], ...]:
        """The instructions inside each backward branch, in program order."""
        spans = []
        for branch in self.instructions:
            target = branch.branch_target
            if target is not None and target < branch.address:
                spans.append((target, branch.address))
        return tuple(
            tuple(i for i in self.instructions if start <= i.address <= end)
            for start, end in sorted(spans)
        )

    @property
    def hot_loop(self) -> tuple[Instruction, ...]:
        """The longest loop that holds no other; empty where the kernel has no loop."""
        innermost = [
            loop
            for loop in self.loops
            if not any(other is not loop and set(other) < set(loop) for other in self.loops)
        ]
        return max(innermost, key=len, default=())

    def count(self, *prefixes: str, within: Iterable[Instruction] | None = None) -> int:
        """Instructions whose opcode is, or is a variant of, one of ``prefixes``."""
        chosen = self.instructions if within is None else within
        return sum(
            any(i.opcode == p or i.opcode.startswith(p + ".") for p in prefixes) for i in chosen
        )


def compile_kernel(
    module: str,
    kernel: str,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Any],
    *,
    capability: int,
    num_warps: int = 4,
    num_stages: int = 3,
    divisible_by_16: Iterable[str] = (),
    maxnreg: int | None = None,
) -> CompiledKernel:
    """Compiles one ``@triton.jit`` function.

    ``module`` is a dotted name or the path of a file; ``signature`` gives the Triton type of every
    run-time argument (``"*bf16"``, ``"i32"``) and ``constexprs`` the value of every other.
    Arguments named in ``divisible_by_16`` are promised to be multiples of 16, as PyTorch's
    pointers are at launch. The calling test is skipped where Triton is not installed.

    Raises:
        CompilationError: with the compiler's message.
    """
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs triton")
    request = {
        "module": module,
        "kernel": kernel,
        "signature": dict(signature),
        "constexprs": dict(constexprs),
        "capability": capability,
        "options": {"num_warps": num_warps, "num_stages": num_stages, "maxnreg": maxnreg},
        "divisible_by_16": sorted(divisible_by_16),
    }
    return _compile_cached(json.dumps(request))


def compile_launches(
    run: Callable[[], object], *, capability: int
) -> dict[str, list[CompiledKernel]]:
    """What ``run`` would launch on a GPU, compiled as Triton would for these arguments.

    Nothing runs: the tensors that ``run`` passes to kernels may be on the CPU and uninitialised.
    The kernels are listed by their names, in the order of their launches.
    """
    pytest.importorskip("triton")
    from triton.runtime.jit import JITFunction

    compiled: dict[str, list[CompiledKernel]] = {}

    def launch(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        kernel = _compile_launch(self, args, kwargs, capability)
        compiled.setdefault(self.__name__, []).append(kernel)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, "run", launch)
        run()
    return compiled


def _compile_launch(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], capability: int
) -> CompiledKernel:
    values = dict(zip(function.arg_names, args, strict=False)) | kwargs
    signature: dict[str, str] = {}
    constexprs: dict[str, Any] = {}
    divisible = set()
    for parameter in function.params:
        name, value = parameter.name, values[parameter.name]
        if value is None or parameter.is_constexpr:
            constexprs[name] = value
        elif isinstance(value, torch.Tensor):
            signature[name] = "*" + _TYPES[value.dtype]
            if value.data_ptr() % 16 == 0 and not parameter.do_not_specialize_on_alignment:
                divisible.add(name)
        elif value == 1 and not parameter.do_not_specialize:
            constexprs[name] = 1
        else:
            signature[name] = "i32"
            if value % 16 == 0 and not parameter.do_not_specialize:
                divisible.add(name)
    options = {name: kwargs[name] for name in ("num_warps", "num_stages") if name in kwargs}
    module = function.fn.__module__
    return compile_kernel(
        module if module.startswith("gistserve.") else function.fn.__globals__["__file__"],
        function.__name__,
        signature,
        constexprs,
        capability=capability,
        divisible_by_16=divisible,
        **options,
    )


@functools.cache
def _compile_cached(request: str) -> CompiledKernel:
    compiler = _compiler()
    assert compiler.stdin is not None and compiler.stdout is not None
    compiler.stdin.write(request + "\n")
    compiler.stdin.flush()
    answer = compiler.stdout.readline()
    if not answer:
        _compiler.cache_clear()
        raise CompilationError(f"the compiler died (exit {compiler.wait()}) on {request}")
    reply = json.loads(answer)
    if "error" in reply:
        raise CompilationError(reply["error"])
    match = _RESOURCES.search(reply["resources"])
    assert match, reply["resources"]
    return CompiledKernel(
        registers=int(match.group(1)),
        stack_bytes=int(match.group(2)),
        shared_bytes=reply["shared"],
        instructions=_parse_sass(reply["sass"]),
    )


@functools.cache
def _compiler() -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    process = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment | {"OMP_NUM_THREADS": "1"},
        text=True,
    )
    atexit.register(process.kill)
    return process


def _parse_sass(sass: str) -> tuple[Instruction, ...]:
    instructions = []
    for line in sass.splitlines():
        if match := _SASS_LINE.match(line):
            text = match.group(2)
            opcode = _PREDICATE.sub("", text).split()[0]
            instructions.append(Instruction(int(match.group(1), 16), opcode, text))
    # What follows the last EXIT is padding: a branch to itself and NOPs.
    while instructions and (
        instructions[-1].mnemonic == "NOP"
        or instructions[-1].branch_target == instructions[-1].address
    ):
        instructions.pop()
    return tuple(instructions)


def _serve_requests() -> None:
    """The compiler's process: one JSON request a line in, one JSON reply a line out."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what ptxas prints must not mix with the replies
    for line in sys.stdin:
        try:
            reply = _compile(json.loads(line))
        except BaseException as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _compile(request: dict[str, Any]) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    fn = getattr(_load_module(request["module"]), request["kernel"])
    constexprs = request["constexprs"]
    signature = {
        name: "constexpr" if name in constexprs else request["signature"][name]
        for name in fn.arg_names
    }
    attributes = {
        (fn.arg_names.index(name),): [["tt.divisibility", 16]]
        for name in request["divisible_by_16"]
    }
    options = {name: value for name, value in request["options"].items() if value is not None}
    compiled = triton.compile(
        ASTSource(fn, signature, constexprs, attributes),
        target=GPUTarget("cuda", request["capability"], 32),
        # Its default changes with Triton's version.
        options=options | {"enable_fp_fusion": True},
    )
    resources, sass = _disassemble(compiled.asm["cubin"])
    return {"resources": resources, "sass": sass, "shared": compiled.metadata.shared}


def _load_module(name: str) -> Any:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(Path(name).stem, name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _disassemble(cubin: bytes) -> tuple[str, str]:
    import triton.backends.nvidia

    cuobjdump = Path(triton.backends.nvidia.__path__[0]) / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        resources, sass = (
            subprocess.run(
                [cuobjdump, flag, file.name], check=True, capture_output=True, text=True
            ).stdout
            for flag in ("-res-usage", "-sass")
        )
    return resources, sass


if __name__ == "__main__":
    _serve_requests()
