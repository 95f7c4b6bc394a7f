"""The place of a sparse linear layer in a model whose weights are not read yet."""

import torch
from torch import Tensor, nn

from ...kernels.sparse import BitmapWeight, SparseFormatError, SparseLinear
from ..errors import SparseCheckpointError
from .layers import linear_size, weight_matrix


class UnloadedSparseLinear(nn.Module):
    """Stands where transformers puts a checkpoint's tensors; `loaded` makes the layer of them.

    Args:
        name: of the layer in the model, for messages.
        dense: the layer to replace; its weight (on the meta device) tells size and dtype, its
            bias is taken over.
        nnz: number of stored values.
    """

    weight_bitmap: Tensor
    weight_values: Tensor

    def __init__(self, name: str, dense: nn.Module, nnz: int) -> None:
        super().__init__()
        self.name = name
        self.shape = linear_size(dense)
        self.dtype = weight_matrix(dense).dtype
        rows, columns = self.shape
        if nnz > rows * columns:
            raise SparseCheckpointError(
                f"config.json promises {nnz} values of {name}, which has {rows * columns} "
                "elements; make the checkpoint again"
            )
        bitmap = torch.empty(rows, -(-columns // 8), dtype=torch.uint8, device="meta")
        self.register_buffer("weight_bitmap", bitmap)
        self.register_buffer("weight_values", torch.empty(nnz, dtype=self.dtype, device="meta"))
        self.bias = dense.bias

    @property
    def weight(self) -> Tensor:
        """No data: some models initialise the weights of layers that they know by name."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")

    def loaded(self) -> SparseLinear:
        """The layer with what was read.

        Raises SparseCheckpointError where tensors are missing or contradict each other.
        """
        for part in ("weight_bitmap", "weight_values"):
            # transformers marks what it has read; what it has not is filled with anything.
            if not getattr(getattr(self, part), "_is_hf_initialized", False):
                raise SparseCheckpointError(
                    f"{self.name}.{part} is missing from the checkpoint; copy or download it "
                    "again, or make it again"
                )
        try:
            weight = BitmapWeight(self.shape, self.weight_bitmap, self.weight_values)
            weight.check()
        except SparseFormatError as error:
            raise SparseCheckpointError(f"{self.name}: {error}") from error
        bias = self.bias
        assert bias is None or isinstance(bias, nn.Parameter)
        return SparseLinear.from_bitmap(weight, bias)
