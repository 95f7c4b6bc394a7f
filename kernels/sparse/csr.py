"""Sparse weights as compressed rows with 32-bit indices: the runtime format of the CPU."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from .bitmap import BitmapWeight
from .bits import pack_bits

# Measured with `python -m gistserve.bench.sparse_cpu`: MKL's sparse product gains nothing from
# the columns of a batch and loses to a weighted sum of whole rows of x.T from about here.
_BAG_BATCH = 12
# Rows of x.T should stay in a core's cache: 64 vectors of 4096 columns fill 1 MiB.
_WIDE_CHUNK, _NARROW_CHUNK, _WIDE_COLUMNS = 64, 32, 4096


@dataclass(frozen=True, eq=False)
class CsrWeight:
    """A weight ``[N, K]`` in CSR with int32 indices (int64 takes 1.5 times as long).

    Values are float32 whatever the layer computes in: torch's CPU kernels know no other.

    Attributes:
        shape: ``(N, K)``.
        row_starts: int32 ``[N + 1]``.
        columns: int32 ``[nnz]``, ascending in a row.
        values: float32 ``[nnz]``.
        dtype: of the weight that this was made from and of what ``linear`` takes and gives.
    """

    shape: tuple[int, int]
    row_starts: Tensor
    columns: Tensor
    values: Tensor
    dtype: torch.dtype

    @classmethod
    def from_bitmap(cls, weight: BitmapWeight) -> CsrWeight:
        """Convert; a float32 weight shares its ``values``."""
        rows, columns = weight.shape
        column = torch.arange(columns, dtype=torch.int32, device=weight.values.device)
        return cls(
            weight.shape,
            pad(weight.row_counts().cumsum(0, dtype=torch.int32), (1, 0)),
            column.expand(rows, columns).masked_select(weight.mask()),
            weight.values.float(),
            weight.values.dtype,
        )

    def to_bitmap(self) -> BitmapWeight:
        """Convert back, losslessly."""
        rows, columns = self.shape
        mask = torch.zeros(rows, columns, dtype=torch.bool, device=self.values.device)
        row = torch.repeat_interleave(self.row_starts.diff())
        mask[row, self.columns] = True
        return BitmapWeight(self.shape, pack_bits(mask), self.values.to(self.dtype))

    @property
    def device(self) -> torch.device:
        """Where the weight lies."""
        return self.values.device

    @property
    def num_bytes(self) -> int:
        """Bytes of indices and values."""
        return 4 * (self.row_starts.numel() + 2 * self.values.numel())

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x @ W.T + bias`` for ``x`` ``[..., K]``, accumulated in float32, in the dtype of x.

        One vector and small batches go to MKL, larger ones through ``embedding_bag``, whose
        weighted sums of rows of ``x.T`` are this product.
        """
        # Steps that change nothing are left out: each costs about a microsecond, and the product
        # of a 576x576 layer takes ten.
        rows, columns = self.shape
        exact = x.dtype is torch.float32
        inputs = x if exact else x.float()
        offset = bias if bias is None or exact else bias.float()
        batch = x.numel() // columns
        if batch == 1:
            product = self._vector(inputs.reshape(columns), offset)
        elif batch < _BAG_BATCH:
            product = self._few(inputs.reshape(-1, columns), offset)
        else:
            product = self._many(inputs.reshape(-1, columns), offset)
        product = product.view(*x.shape[:-1], rows)
        return product if exact else product.to(x.dtype)

    def _vector(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return self.matrix.mv(x) if bias is None else torch.addmv(bias, self.matrix, x)

    def _few(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if bias is None:
            product = self.matrix @ x.t()
        else:
            product = torch.addmm(bias.unsqueeze(1), self.matrix, x.t())
        return product.t().contiguous()

    def _many(self, x: Tensor, bias: Tensor | None) -> Tensor:
        chunk = _WIDE_CHUNK if self.shape[1] <= _WIDE_COLUMNS else _NARROW_CHUNK
        product = torch.cat([self._bags(part) for part in x.split(chunk)], dim=1).t().contiguous()
        return product if bias is None else product.add_(bias)

    def _bags(self, x: Tensor) -> Tensor:
        # torch.embedding_bag, because what torch.nn.functional puts around it takes 10 us.
        sums, *_ = torch.embedding_bag(
            x.t().contiguous(),
            self.columns,
            self.row_starts,
            mode=0,  # sum
            per_sample_weights=self.values,
            include_last_offset=True,
        )
        return sums

    @cached_property
    def matrix(self) -> Tensor:
        """The torch CSR tensor ``[N, K]`` over these parts."""
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Sparse (CSR tensor support|invariant checks)"
            )
            return torch.sparse_csr_tensor(
                self.row_starts,
                self.columns,
                self.values,
                size=self.shape,
                check_invariants=False,
            )

    def __getstate__(self) -> dict[str, object]:
        # torch cannot copy a CSR tensor; its parts make it anew.
        return {name: part for name, part in self.__dict__.items() if name != "matrix"}
