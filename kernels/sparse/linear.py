"""A linear layer with a sparse weight, for inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .bitmap import BitmapWeight
from .bitmap_tiles import BitmapTiles
from .choice import DECODE_BATCH, Format, choose_format
from .csr import CsrWeight
from .dense import DenseWeight
from .errors import SparseFormatError
from .operator import RuntimeWeight, sparse_linear
from .segmented_rows import SegmentedRows

_FORMATS: dict[
    Format, type[DenseWeight] | type[CsrWeight] | type[SegmentedRows] | type[BitmapTiles]
] = {
    "dense": DenseWeight,
    "csr": CsrWeight,
    "segmented": SegmentedRows,
    "bitmap": BitmapTiles,
}


class SparseLinear(nn.Module):
    """``y = x @ W.T + bias`` with a sparse ``W`` ``[out_features, in_features]``.

    The weight is stored as the buffers ``weight_bitmap`` (uint8 ``[N, ceil(K / 8)]``) and
    ``weight_values`` (``[nnz]``), which is what ``state_dict`` writes and ``load_state_dict``
    reads. ``prepare``, or the first call, turns it into the format that is fastest on its device
    and lets the buffers go; moving the layer brings them back.

    Args:
        in_features: ``K``.
        out_features: ``N``.
        nnz: kept elements, the length of ``weight_values``.
        bias: whether there is a bias.
        device: of the buffers; "meta" for a layer that is loaded later.
        dtype: float32, float16 or bfloat16.

    Raises:
        ValueError: ``nnz`` is negative or more than the weight has elements.
    """

    weight_bitmap: Tensor | None
    weight_values: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        nnz: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= nnz <= in_features * out_features:
            raise ValueError(
                f"nnz is {nnz}, but a weight of shape {[out_features, in_features]} keeps between "
                f"0 and {in_features * out_features} elements"
            )
        self.in_features, self.out_features, self.nnz = in_features, out_features, nnz
        width = -(-in_features // 8)
        bitmap = torch.zeros(out_features, width, dtype=torch.uint8, device=device)
        self.register_buffer("weight_bitmap", bitmap)
        self.register_buffer("weight_values", torch.zeros(nnz, dtype=dtype, device=device))
        offset = torch.zeros(out_features, dtype=dtype, device=device) if bias else None
        self.bias = None if offset is None else nn.Parameter(offset, requires_grad=False)
        self._runtime: RuntimeWeight | None = None

    @classmethod
    def from_bitmap(cls, weight: BitmapWeight, bias: Tensor | None = None) -> SparseLinear:
        """A layer that shares the weight's tensors and the bias ``[N]``."""
        rows, columns = weight.shape
        layer = cls(columns, rows, weight.nnz, bias is not None, "meta", weight.dtype)
        layer.weight_bitmap, layer.weight_values = weight.bitmap, weight.values
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
        return layer

    @classmethod
    def from_linear(cls, linear: nn.Linear, mask: Tensor | None = None) -> SparseLinear:
        """Keep a dense layer's weight where ``mask`` is true, by default where it is not 0."""
        return cls.from_bitmap(BitmapWeight.from_dense(linear.weight, mask), linear.bias)

    @classmethod
    def concatenate(cls, layers: Sequence[SparseLinear]) -> SparseLinear:
        """One layer with the outputs of all, one after another, as for query, key and value.

        Where only some have a bias, the others' is zero.

        Raises:
            ValueError: there is no layer, or they differ in inputs, dtype or device.
        """
        weights = [layer.bitmap() for layer in layers]
        kinds = {(weight.shape[1], weight.dtype, weight.device) for weight in weights}
        if len(kinds) != 1:
            raise ValueError(
                "layers to concatenate must agree in in_features, dtype and device, but are "
                f"{sorted(map(str, kinds))}"
            )
        columns = weights[0].shape[1]
        joined = BitmapWeight(
            (sum(weight.shape[0] for weight in weights), columns),
            torch.cat([weight.bitmap for weight in weights]),
            torch.cat([weight.values for weight in weights]),
        )
        if all(layer.bias is None for layer in layers):
            return cls.from_bitmap(joined)
        biases = [
            joined.values.new_zeros(layer.out_features) if layer.bias is None else layer.bias
            for layer in layers
        ]
        return cls.from_bitmap(joined, torch.cat(biases))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` ``[..., in_features]`` to ``[..., out_features]``; see ``sparse_linear``."""
        weight = self._runtime
        return sparse_linear(x, self.prepare() if weight is None else weight, self.bias)

    def prepare(self, decode_batch: int = DECODE_BATCH) -> RuntimeWeight:
        """Turn the stored weight into the fastest format of its device, if that is not done.

        Args:
            decode_batch: vectors of the decode steps to be fast for.

        Raises:
            SparseFormatError: the bitmap contradicts the values.
            RuntimeError: the layer is on the meta device.
        """
        if self._runtime is None:
            weight = self.bitmap()
            if weight.device.type == "meta":
                raise RuntimeError("the layer is on the meta device; load its weight first")
            weight.check()
            name = choose_format(
                weight.shape,
                weight.sparsity,
                device_type=weight.device.type,
                dtype=weight.dtype,
                decode_batch=decode_batch,
            )
            self.nnz = weight.nnz
            self._runtime = _FORMATS[name].from_bitmap(weight)
            self.weight_bitmap = self.weight_values = None
        return self._runtime

    def bitmap(self) -> BitmapWeight:
        """The weight in its stored form.

        Raises:
            SparseFormatError: the buffers do not fit each other.
        """
        if self._runtime is not None:
            return self._runtime.to_bitmap()
        assert self.weight_bitmap is not None and self.weight_values is not None
        shape = (self.out_features, self.in_features)
        return BitmapWeight(shape, self.weight_bitmap, self.weight_values)

    @property
    def weight(self) -> Tensor:
        """The dense weight ``[out_features, in_features]``, made anew at each access."""
        return self.bitmap().to_dense()

    def extra_repr(self) -> str:
        """Sizes and, when prepared, the format."""
        name = "" if self._runtime is None else f", format={type(self._runtime).__name__}"
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, nnz={self.nnz}, "
            f"bias={self.bias is not None}{name}"
        )

    def _unprepare(self) -> None:
        """Bring the buffers back, and let the runtime format go."""
        if self._runtime is not None:
            weight = self._runtime.to_bitmap()
            self.weight_bitmap, self.weight_values = weight.bitmap, weight.values
            self._runtime = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SparseLinear:
        self._unprepare()
        return super()._apply(fn, recurse)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._runtime is not None:
            weight = self._runtime.to_bitmap()
            destination[prefix + "weight_bitmap"] = weight.bitmap
            destination[prefix + "weight_values"] = weight.values

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        self._unprepare()
        values = state_dict.get(prefix + "weight_values")
        if values is not None and self.weight_values is not None and values.dim() == 1:
            # Another mask may keep more or fewer elements.
            self.nnz = len(values)
            self.weight_values = self.weight_values.new_empty(self.nnz)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if values is None or prefix + "weight_bitmap" not in state_dict:
            return
        try:
            weight = self.bitmap()
            if weight.device.type != "meta":
                weight.check()
        except SparseFormatError as error:
            error_msgs.append(f"{prefix}weight: {error}")
