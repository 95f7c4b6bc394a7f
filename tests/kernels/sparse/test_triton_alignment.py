"""Kernels read whole words: what begins inside one is copied, and nothing else."""

import pytest
import torch

from .triton_cases import shifted

pytest.importorskip("triton")

from gistserve.kernels.sparse.triton_alignment import aligned, rows_contiguous


def test_only_tensors_that_begin_inside_a_word_are_copied():
    whole = torch.arange(40, dtype=torch.uint8)
    inside = shifted(whole)
    assert inside.data_ptr() % 16 == 1
    assert aligned(whole) is whole
    assert aligned(inside).data_ptr() % 16 == 0
    assert torch.equal(aligned(inside), whole)


def test_only_matrices_with_scattered_rows_are_copied():
    matrix = torch.arange(24.0).view(4, 6)
    assert rows_contiguous(matrix[:, 1:4]).data_ptr() == matrix[:, 1:4].data_ptr()
    assert rows_contiguous(matrix.T).is_contiguous()
    assert torch.equal(rows_contiguous(matrix.T), matrix.T)
