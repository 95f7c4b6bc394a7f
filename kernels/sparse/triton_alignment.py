"""What the sparse Triton kernels ask of the tensors they read in whole words."""

from torch import Tensor

LOAD_BYTES = 16
"""The widest load of a thread."""


def aligned(tensor: Tensor) -> Tensor:
    """``tensor``, or a copy of one that begins in the middle of a 16-byte word.

    Allocations begin at whole words; a view into another tensor may not.
    """
    return tensor.clone() if tensor.data_ptr() % LOAD_BYTES else tensor


def rows_contiguous(matrix: Tensor) -> Tensor:
    """``matrix``, or a copy of one whose rows are not contiguous."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()
