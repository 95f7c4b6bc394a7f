"""Triton kernel: the sum of what the splits of a product computed."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256


def allocate_partials(out: Tensor, splits: int) -> Tensor | None:
    """float32 ``[splits, B, N]`` for an ``out`` ``[B, N]``; None where there is one split."""
    if splits == 1:
        return None
    return out.new_empty(splits, *out.shape, dtype=torch.float32)


def reduce_partials(partials: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """``out`` ``[B, N]`` = ``partials`` ``[splits, B, N]`` summed in order, plus ``bias``."""
    splits, batch, num_rows = partials.shape
    partials_kernel[(triton.cdiv(num_rows, BLOCK), batch)](
        partials,
        bias,
        out,
        num_rows,
        batch,
        SPLITS=splits,
        BLOCK=BLOCK,
        num_warps=BLOCK // 64,
        enable_fp_fusion=True,
    )


@triton.jit(do_not_specialize=["batch"])
def partials_kernel(
    partials_ptr, bias_ptr, out_ptr, num_rows, batch, SPLITS: tl.constexpr, BLOCK: tl.constexpr
):
    """One block of one vector."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = row < num_rows
    place = tl.program_id(1) * num_rows + row
    total = tl.zeros([BLOCK], tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(partials_ptr + split * batch * num_rows + place, mask=mask)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + row, mask=mask).to(tl.float32)
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=mask)
