"""Linear layers under a mask, with gradients that need no dense tensor kept from the forward pass.

Kept for the backward pass are the input, the parameters and one bit a weight. Masked weights, and
the gradient with respect to them, are made again for a block of rows at a time.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...kernels.sparse.bits import unpack_bits

BLOCK_ELEMENTS = 1 << 22
"""Elements of a block of rows: 16 MiB in float32."""


class Factors(NamedTuple):
    """beta of the weight update, alpha_1 and alpha_2 of the importance (paper, equations 5-9)."""

    beta: float = 1.0
    alpha_1: float = 1.0
    alpha_2: float = 1.0


def row_blocks(shape: tuple[int, int], elements: int | None = None) -> Iterator[slice]:
    """Consecutive slices of the rows of `[N, K]`, of about `elements` elements each."""
    rows, columns = shape
    step = max(1, (elements or BLOCK_ELEMENTS) // max(1, columns))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def accumulation_dtype(weight: Tensor) -> torch.dtype:
    """float32, or float64 for a float64 weight."""
    return torch.promote_types(weight.dtype, torch.float32)


class MaskedLinear(torch.autograd.Function):
    """y = x (M * W)^T, with the gradients of movement pruning (arXiv 2005.07683, section 4).

    x [..., K] in the dtype computed in, weight [N, K], scores [N, K] or None, mask_bits uint8
    [N, ceil(K/8)]. The gradient of W is G * M and, straight through the mask, that of the scores
    G * W, where G is the gradient of M * W.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, scores: Tensor | None, mask_bits: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mask_bits)
        with _exact_dtype(x):
            return _product(x, weight.shape, lambda rows: _masked(weight, mask_bits, rows))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mask_bits = ctx.saved_tensors
        needs_x, needs_weight, needs_scores, _ = ctx.needs_input_grad
        x, grad, shape = _flat(x), _flat(grad), x.shape
        grad_x = torch.zeros_like(x) if needs_x else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        grad_scores = torch.empty_like(weight) if needs_scores else None
        with _exact_dtype(x):
            for rows in row_blocks(weight.shape):
                part = grad[:, rows]
                if grad_x is not None:
                    grad_x += part @ _masked(weight, mask_bits, rows).to(x.dtype)
                outer = (part.T @ x).to(weight.dtype)
                if grad_scores is not None:
                    torch.mul(outer, weight[rows], out=grad_scores[rows])
                if grad_weight is not None:
                    torch.mul(outer, _mask(mask_bits, weight, rows), out=grad_weight[rows])
        return grad_x.view(shape) if grad_x is not None else None, grad_weight, grad_scores, None


class PSTLinear(torch.autograd.Function):
    """y = x (M * W')^T with W' = W + beta U V, and low-rank importance (arXiv 2205.11005).

    x [..., K] in the dtype computed in, weight [N, K] (frozen), u [N, r], v [r, K]; the importance
    S = |W'| + alpha_1 A B + alpha_2 (R 1^T + 1 C^T) has a [N, r'], b [r', K], r [N], c [K].
    mask_bits uint8 [N, ceil(K/8)] marks the largest of S. Straight through the mask the gradient of
    S is G * W', where G is that of M * W'; |W'| takes its part, so that of W' is G * (M + |W'|).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        u: Tensor,
        v: Tensor,
        a: Tensor,
        b: Tensor,
        r: Tensor,
        c: Tensor,
        mask_bits: Tensor,
        factors: Factors,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, u, v, a, b, mask_bits)
        ctx.factors = factors

        def block(rows: slice) -> Tensor:
            updated = updated_rows(weight, u, v, factors.beta, rows)
            return updated.mul_(_mask(mask_bits, weight, rows))

        with _exact_dtype(x):
            return _product(x, weight.shape, block)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, u, v, a, b, mask_bits = ctx.saved_tensors
        beta, alpha_1, alpha_2 = ctx.factors
        x, grad, shape = _flat(x), _flat(grad), x.shape
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        grad_u, grad_v = torch.empty_like(u), torch.zeros_like(v)
        grad_a, grad_b = torch.empty_like(a), torch.zeros_like(b)
        grad_r, grad_c = u.new_empty(len(u)), v.new_zeros(v.shape[1])
        with _exact_dtype(x):
            for rows in row_blocks(weight.shape):
                part = grad[:, rows]
                updated = updated_rows(weight, u, v, beta, rows)
                mask = _mask(mask_bits, weight, rows)
                if grad_x is not None:
                    grad_x += part @ (updated * mask).to(x.dtype)
                outer = (part.T @ x).to(updated.dtype)
                score = outer * updated
                torch.mm(score, b.T, out=grad_a[rows])
                grad_b.addmm_(a[rows].T, score)
                torch.sum(score, 1, out=grad_r[rows])
                grad_c += score.sum(0)
                through = outer.mul_(updated.abs_().add_(mask))
                torch.mm(through, v.T, out=grad_u[rows])
                grad_v.addmm_(u[rows].T, through)
        grads = (grad_u * beta, grad_v * beta, grad_a * alpha_1, grad_b * alpha_1)
        x_grad = grad_x.view(shape) if grad_x is not None else None
        return x_grad, None, *grads, grad_r * alpha_2, grad_c * alpha_2, None, None


def updated_rows(weight: Tensor, u: Tensor, v: Tensor, beta: float, rows: slice) -> Tensor:
    """Rows of W' = W + beta U V, at least in float32."""
    part = weight[rows].to(accumulation_dtype(weight))
    return torch.addmm(part, u[rows], v, alpha=beta)


def _product(x: Tensor, shape: torch.Size, block: Any) -> Tensor:
    out = x.new_empty(*x.shape[:-1], shape[0])
    for rows in row_blocks((shape[0], shape[1])):
        out[..., rows] = x @ block(rows).to(x.dtype).T
    return out


def _masked(weight: Tensor, mask_bits: Tensor, rows: slice) -> Tensor:
    return weight[rows] * _mask(mask_bits, weight, rows)


def _mask(mask_bits: Tensor, weight: Tensor, rows: slice) -> Tensor:
    return unpack_bits(mask_bits[rows], weight.shape[1])


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _exact_dtype(x: Tensor) -> torch.autocast:
    """Autocast off: the caller has cast `x`, and everything else has the dtype it needs."""
    return torch.autocast(x.device.type, enabled=False)
