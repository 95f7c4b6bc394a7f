"""Which format a sparse layer takes, so that it is never slower than the dense one.

Thresholds for the CPU are measured (``python -m gistserve.bench.sparse_cpu``). Those for CUDA are
worked out from bytes and from instructions counted in compiled code; no GPU has timed them yet.
"""

from __future__ import annotations

from typing import Literal

import torch

Format = Literal["dense", "csr", "segmented", "bitmap"]

DECODE_BATCH = 8
"""Vectors of a decode step where the caller does not say: few enough for segmented rows."""

SEGMENTED_BATCH = 32
"""Vectors that segmented rows multiply in passes of 8; beyond, decompressing costs less."""

BITMAP_BATCH = 64
"""Vectors that bitmap tiles multiply; beyond, decompressing costs less."""

# Measured on one of two cores: from 80% (float32) and 90% (bfloat16) on CSR is faster than dense at
# all shapes and batches of the grid, at worst as fast; at 75% and 85% not yet. bfloat16 stands for
# both 16-bit types: their dense products move half the bytes, CSR's float32 values do not.
_CPU_SPARSITY = {torch.float32: 0.78, torch.bfloat16: 0.88, torch.float16: 0.88}

# Counted in the kernels' inner loops for sm_90, not yet measured (what they may take is pinned by
# tests of the compiled code). Streaming a dense bf16 element, an H200 has time for 14.
_INSTRUCTIONS_PER_DENSE_BYTE = 7.0
_BITMAP_INSTRUCTIONS = {32: 11.0, 64: 12.0}  # an element, by the largest batch
_BITMAP_PADDED_BATCH = 16
_SEGMENTED_INSTRUCTIONS = 10.0, 2.6  # an entry: of its own, and for each vector

# Unmeasured, a format must be predicted this much cheaper than dense. Below half sparsity what the
# count leaves out may take the rest, and smaller matrices are read in about the time of a launch.
_CUDA_COST = 1 / 1.15
_CUDA_SPARSITY = 0.49  # pruning to half may keep an element more
_CUDA_ELEMENTS = 2048 * 2048

# Entries that padding to groups of 8 adds to a 256-column segment, on average, and its offset.
_PADDING = 3.5 / 256
_OFFSET_BYTES = 4 / 256


def choose_format(
    shape: tuple[int, int],
    sparsity: float,
    *,
    device_type: str,
    dtype: torch.dtype,
    decode_batch: int = DECODE_BATCH,
) -> Format:
    """The format that decodes fastest, "dense" where none beats it.

    Args:
        shape: ``(N, K)`` of the weight.
        sparsity: share of elements that are not stored, 0 to 1.
        device_type: "cpu" or "cuda"; elsewhere layers stay dense.
        dtype: float32, float16 or bfloat16.
        decode_batch: vectors of the decode steps to be fast for.

    Raises:
        ValueError: ``sparsity`` is outside 0 to 1, or ``decode_batch`` is not positive.
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity is {sparsity}; it is a share, from 0 to 1")
    if decode_batch < 1:
        raise ValueError(f"decode_batch is {decode_batch}; a step has at least one vector")
    if device_type == "cpu":
        # Without MKL torch has no fast product of a CSR matrix and a vector.
        fast = torch.backends.mkl.is_available() and sparsity >= _CPU_SPARSITY[dtype]
        return "csr" if fast else "dense"
    if device_type != "cuda" or decode_batch > BITMAP_BATCH:
        return "dense"
    if sparsity < _CUDA_SPARSITY or shape[0] * shape[1] < _CUDA_ELEMENTS:
        return "dense"
    costs: dict[Format, float] = {"bitmap": bitmap_cost(sparsity, dtype.itemsize, decode_batch)}
    if decode_batch <= DECODE_BATCH:
        costs["segmented"] = segmented_cost(sparsity, dtype.itemsize, decode_batch)
    best = min(costs, key=lambda name: costs[name])
    return best if costs[best] <= _CUDA_COST else "dense"


def bitmap_cost(sparsity: float, itemsize: int, batch: int) -> float:
    """Predicted time of a product with a bitmap weight on an H200, the dense one's being 1.

    The larger of bytes and instructions decides.
    """
    size = 1 / 8 + (1 - sparsity) * itemsize
    few, most = sorted(_BITMAP_INSTRUCTIONS)
    instructions = _BITMAP_INSTRUCTIONS[few if batch <= few else most]
    if itemsize == 4:  # exact float32 products take no tensor cores, and padding takes part
        instructions += max(_BITMAP_PADDED_BATCH, batch)
    return max(size / itemsize, _instruction_cost(instructions, itemsize))


def segmented_cost(sparsity: float, itemsize: int, batch: int) -> float:
    """Predicted time of a product with ragged segmented rows on an H200, the dense one's being 1.

    The larger of bytes and instructions decides.
    """
    entries = 1 - sparsity + _PADDING
    size = entries * (1 + itemsize) + _OFFSET_BYTES
    once, each = _SEGMENTED_INSTRUCTIONS
    return max(size / itemsize, _instruction_cost((once + each * batch) * entries, itemsize))


def _instruction_cost(instructions: float, itemsize: int) -> float:
    return instructions / (_INSTRUCTIONS_PER_DENSE_BYTE * itemsize)
