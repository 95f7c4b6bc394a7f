"""What the tests of the sparse Triton kernels share."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from ..interpreted import interpreted

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@contextmanager
def kernels_on(device: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels run on ``device``; what they are to fill holds NaN (or 255) beforehand."""
    new_empty = Tensor.new_empty

    def poisoned(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = new_empty(self, *args, **kwargs)
        return out.fill_(torch.nan if out.is_floating_point() else 255)

    with interpreted() if device == "cpu" else nullcontext(), monkeypatch.context() as patch:
        patch.setattr(Tensor, "new_empty", poisoned)
        yield


def vectors(batch: int, columns: int, dtype: torch.dtype, device: str, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, columns, generator=generator).to(device, dtype)


def assert_product(out: Tensor, x: Tensor, dense: Tensor, bias: Tensor | None = None) -> None:
    """``out`` is ``x @ dense.T + bias`` as float64 computes it, but for rounding."""
    expected = x.double() @ dense.double().T
    if bias is not None:
        expected += bias.double()
    assert out.dtype == x.dtype and out.shape == expected.shape
    error = (out.double() - expected).norm() / expected.norm().clamp(min=1e-30)
    assert error <= TOLERANCES[x.dtype], f"relative error {error:.2e}"


def views(batch: int, columns: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Vectors ``[batch, columns]`` inside larger tensors that are NaN everywhere else."""
    slices = (slice(100, 100 + columns), slice(1, 3 * columns, 3))
    found = []
    for chosen in slices:
        surrounding = torch.full((batch, 3 * columns + 300), torch.nan, dtype=dtype, device=device)
        surrounding[:, chosen] = vectors(batch, columns, dtype, device)
        found.append(surrounding[:, chosen])
    return found


def shifted(tensor: Tensor) -> Tensor:
    """The same elements, beginning one element past an aligned address."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)
