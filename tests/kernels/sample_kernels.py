"""Kernels whose machine code and results are known, for the tests of the harness."""

import triton
import triton.language as tl


@triton.jit
def _twice(x):
    return x * 2 + tl.zeros_like(x)


@triton.jit
def scaled_sum(x_ptr, out_ptr, num_blocks, BLOCK: tl.constexpr):
    """``out[program] = 2 * sum(x)`` over ``num_blocks`` blocks of one program."""
    offsets = tl.program_id(0) * num_blocks * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for block in tl.range(num_blocks, loop_unroll_factor=1):
        total += tl.load(x_ptr + offsets + block * BLOCK).to(tl.float32)
    tl.store(out_ptr + tl.program_id(0), tl.sum(_twice(total), 0).to(out_ptr.dtype.element_ty))


@triton.jit
def outer_product(x_ptr, out_ptr, BLOCK: tl.constexpr):
    """Keeps ``BLOCK * BLOCK`` values alive at once: too many for a thread's registers."""
    offsets = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets)
    product = x[:, None] * x[None, :]
    for step in tl.range(1, 9, loop_unroll_factor=1):
        product = product * tl.load(x_ptr + offsets + step * BLOCK)[None, :] + product.trans()
    tl.store(out_ptr + offsets[:, None] * BLOCK + offsets[None, :], product)


@triton.jit
def sum_by_method(x_ptr, out_ptr, BLOCK: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, BLOCK))
    tl.store(out_ptr, x.sum(axis=0) + x.max(0))
