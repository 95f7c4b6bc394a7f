"""The interpreter runs kernels inside its context and leaves no trace outside it."""

import pytest
import torch

from .interpreted import interpreted

pytest.importorskip("triton")

import triton.language as tl
from triton.runtime.jit import JITFunction

from .sample_kernels import scaled_sum, sum_by_method


def test_a_kernel_and_the_kernels_it_calls_run():
    x, out = torch.randn(2, 64), torch.full([2], torch.nan)
    with interpreted():
        scaled_sum[(2,)](x, out, 4, BLOCK=16, num_warps=2)
    torch.testing.assert_close(out, 2 * x.sum(1))


def test_reductions_work_as_methods():
    x, out = torch.randn(32), torch.full([1], torch.nan)
    with interpreted():
        sum_by_method[(1,)](x, out, BLOCK=32)
    torch.testing.assert_close(out, (x.sum() + x.max())[None])


def test_nothing_stays_patched():
    def language() -> dict[str, object]:
        owners = {"tl": tl, "core": tl.core, "tensor": tl.tensor, "kernel": JITFunction}
        return {f"{o}.{n}": v for o, owner in owners.items() for n, v in vars(owner).items()}

    before = language()
    x, out = torch.randn(1, 16), torch.empty(1)
    with interpreted():
        scaled_sum[(1,)](x, out, 1, BLOCK=16)
    with pytest.raises(ZeroDivisionError), interpreted():
        raise ZeroDivisionError
    after = language()
    assert {name for name in before if after.get(name) is not before[name]} == set()
    assert after.keys() == before.keys()
