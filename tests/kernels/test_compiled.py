"""The compile-only harness sees what the compiler did."""

from pathlib import Path

import pytest
import torch

from .compiled import CompilationError, compile_kernel, compile_launches

SAMPLES = str(Path(__file__).with_name("sample_kernels.py"))


def compile_sum(capability: int, block: int = 1024, divisible: tuple[str, ...] = ("x_ptr",)):
    return compile_kernel(
        SAMPLES,
        "scaled_sum",
        {"x_ptr": "*fp32", "out_ptr": "*fp32", "num_blocks": "i32"},
        {"BLOCK": block},
        capability=capability,
        divisible_by_16={*divisible, "num_blocks"} if divisible else (),
    )


@pytest.mark.parametrize("capability", [80, 90])
def test_a_loop_and_its_loads_are_counted(capability):
    kernel = compile_sum(capability)
    # 1024 floats over 128 threads: two 16-byte loads and eight additions a pass. ptxas unrolls.
    passes, rest = divmod(kernel.count("LDG.E.128", within=kernel.hot_loop), 2)
    assert passes >= 1 and rest == 0
    assert kernel.count("FADD", within=kernel.hot_loop) == 8 * passes
    assert kernel.hot_loop[-1].mnemonic == "BRA"
    assert len(kernel.hot_loop) < kernel.num_instructions
    assert kernel.num_spills == kernel.stack_bytes == 0
    assert 16 <= kernel.registers <= 64
    assert kernel.shared_bytes > 0  # the sum crosses warps


def test_alignment_hints_reach_the_compiler():
    hinted, plain = compile_sum(90), compile_sum(90, divisible=())
    assert plain.count("LDG.E.128") == 0
    assert plain.num_instructions > hinted.num_instructions


def test_spills_are_seen():
    kernel = compile_kernel(
        SAMPLES,
        "outer_product",
        {"x_ptr": "*fp32", "out_ptr": "*fp32"},
        {"BLOCK": 128},
        capability=90,
        num_warps=1,
    )
    assert kernel.num_spills > 0
    assert kernel.stack_bytes > 0


def test_errors_carry_the_compilers_message_and_leave_it_usable():
    with pytest.raises(CompilationError, match="power of 2"):
        compile_sum(90, block=1000)
    assert compile_sum(90, block=512).registers > 0


def test_a_launch_is_compiled_for_its_arguments():
    pytest.importorskip("triton")
    from .sample_kernels import scaled_sum

    def launch(x: torch.Tensor, num_blocks: int) -> None:
        scaled_sum[(1,)](x, torch.empty(1), num_blocks, BLOCK=1024, num_warps=4)

    aligned, shifted, once = (
        compile_launches(lambda x=x, n=n: launch(x, n), capability=90)["scaled_sum"][0]
        for x, n in ((torch.empty(8192), 16), (torch.empty(8193)[1:], 16), (torch.empty(9), 1))
    )
    assert aligned.count("LDG.E.128") > 0 and shifted.count("LDG.E.128") == 0
    assert aligned.loops and not once.loops
