"""What stands in place of a linear layer while it is pruned."""

import math

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ...compress.sparse.layers import linear_size, weight_matrix
from ...compress.sparse.pattern import Pattern
from ...kernels.sparse.bits import pack_bits, unpack_bits
from .functions import Factors, MaskedLinear, PSTLinear, accumulation_dtype, updated_rows
from .selection import select

_ALL = slice(None)


class PrunedLinear(nn.Module):
    """A linear layer (`nn.Linear`, or GPT-2's `Conv1D`) whose weight is masked by importance.

    The mask is a buffer, `mask_bits` uint8 [N, ceil(K/8)], and changes only in `update_mask`:
    between optimizer steps, so that accumulated batches and evaluation all see the same one. In
    evaluation the masked weight is computed once and kept until training goes on.

    Attributes:
        weight: [N, K] (out_features, in_features), also for a `Conv1D`; bias [N] or None.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.out_features, self.in_features = linear_size(layer)
        self.is_conv1d = isinstance(layer, Conv1D)
        self.weight = nn.Parameter(weight_matrix(layer).contiguous())
        bias = layer.bias
        assert bias is None or isinstance(bias, nn.Parameter)
        self.bias = bias
        bits = pack_bits(torch.ones_like(self.weight, dtype=torch.bool))
        self.register_buffer("mask_bits", bits)
        self.mask_bits: Tensor
        self._evaluated: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """y [..., N] for x [..., K], in x's dtype, or that of autocast."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if self.training or torch.is_grad_enabled():
            y = self._masked_product(x)
            return y if bias is None else y + bias
        if self._evaluated is None or self._evaluated.dtype != x.dtype:
            self._evaluated = self.masked_weight().to(x.dtype)
        return nn.functional.linear(x, self._evaluated, bias)

    def _masked_product(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def current_weight(self) -> Tensor:
        """The weight without its mask [N, K], at least in float32, detached."""
        return self.weight.detach().to(accumulation_dtype(self.weight))

    def scores(self) -> Tensor:
        """Importance of each weight [N, K], float32, detached."""
        raise NotImplementedError

    @torch.no_grad()
    def update_mask(self, sparsity: float, pattern: Pattern) -> None:
        """Keep the most important weights (see `selection.select`)."""
        with torch.autocast(self.weight.device.type, enabled=False):
            self.mask_bits.copy_(pack_bits(select(self.scores(), sparsity, pattern)))
        self._evaluated = None

    def mask(self) -> Tensor:
        """Bool [N, K], true where a weight is kept."""
        return unpack_bits(self.mask_bits, self.in_features)

    @torch.no_grad()
    def masked_weight(self) -> Tensor:
        """M * W' [N, K], in the dtype of `weight`."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return self.current_weight().mul_(self.mask()).to(self.weight.dtype)

    def train(self, mode: bool = True) -> "PrunedLinear":
        """Also drops what evaluation has kept."""
        self._evaluated = None
        return super().train(mode)

    def to_linear(self) -> nn.Module:
        """The layer as it was, of its kind, with the masked weight."""
        if self.is_conv1d:
            layer: nn.Module = Conv1D(self.out_features, self.in_features)
            layer.weight = nn.Parameter(self.masked_weight().T.contiguous())
        else:
            layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
            layer.weight = nn.Parameter(self.masked_weight())
        layer.bias = self.bias
        return layer.train(self.training)

    def method_parameters(self) -> list[nn.Parameter]:
        """What the method itself adds and trains beside the layer's own parameters."""
        return []


class MagnitudeLinear(PrunedLinear):
    """Magnitude pruning (MaP): the weight is trained, its importance is |W|."""

    def _masked_product(self, x: Tensor) -> Tensor:
        y: Tensor = MaskedLinear.apply(x, self.weight, None, self.mask_bits)
        return y

    def scores(self) -> Tensor:
        return self.weight.detach().float().abs()


class MovementLinear(PrunedLinear):
    """Movement pruning (MvP, arXiv 2005.07683): weight and importance are trained, both dense."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.importance = nn.Parameter(torch.zeros_like(self.weight))

    def _masked_product(self, x: Tensor) -> Tensor:
        y: Tensor = MaskedLinear.apply(x, self.weight, self.importance, self.mask_bits)
        return y

    def scores(self) -> Tensor:
        return self.importance.detach().float()

    def method_parameters(self) -> list[nn.Parameter]:
        return [self.importance]


class LowRankLinear(PrunedLinear):
    """PST (arXiv 2205.11005): the weight is frozen, its update and importance are of low rank.

    V, B, R and C begin at zero, U and A with a standard deviation of 1/sqrt(rank): how far a
    product moves at a given learning rate does not depend on the rank (arXiv 2312.03732).
    """

    def __init__(
        self, layer: nn.Module, *, weight_rank: int, score_rank: int, factors: Factors
    ) -> None:
        super().__init__(layer)
        self.weight.requires_grad_(False)
        self.factors = factors
        rows, columns = self.weight.shape
        self.u = self._parameter(rows, weight_rank, std=1 / math.sqrt(weight_rank))
        self.v = self._parameter(weight_rank, columns)
        self.a = self._parameter(rows, score_rank, std=1 / math.sqrt(score_rank))
        self.b = self._parameter(score_rank, columns)
        self.r = self._parameter(rows)
        self.c = self._parameter(columns)

    def _parameter(self, *shape: int, std: float = 0.0) -> nn.Parameter:
        dtype = accumulation_dtype(self.weight)
        values = torch.zeros(shape, dtype=dtype, device=self.weight.device)
        return nn.Parameter(values.normal_(std=std) if std else values)

    def _masked_product(self, x: Tensor) -> Tensor:
        low_rank = (self.u, self.v, self.a, self.b, self.r, self.c)
        y: Tensor = PSTLinear.apply(x, self.weight, *low_rank, self.mask_bits, self.factors)
        return y

    def current_weight(self) -> Tensor:
        return updated_rows(self.weight, self.u, self.v, self.factors.beta, _ALL).detach()

    def scores(self) -> Tensor:
        """S = |W'| + alpha_1 A B + alpha_2 (R 1^T + 1 C^T)."""
        _, alpha_1, alpha_2 = self.factors
        scores = self.current_weight().abs_()
        scores.addmm_(self.a.detach(), self.b.detach(), alpha=alpha_1)
        scores.add_(self.r.detach()[:, None], alpha=alpha_2)
        return scores.add_(self.c.detach(), alpha=alpha_2).float()

    def method_parameters(self) -> list[nn.Parameter]:
        return [self.u, self.v, self.a, self.b, self.r, self.c]
