"""What the sparse kernels are compiled to: registers, no spills, instructions a non-zero.

The limits are what Triton 3.6 and 3.9 gave, and a little more. Decoding in registers is what
these kernels pay for reading fewer bytes, so a limit that is passed is a slower product.
"""

import pytest
import torch
from gistserve.kernels.sparse import BitmapWeight, SegmentedRows
from gistserve.kernels.sparse.bitmap_tiles import TILE_COLUMNS, BitmapTiles

from ..compiled import CompiledKernel, compile_launches

pytest.importorskip("triton")

from gistserve.kernels.sparse import triton_bitmap, triton_segmented
from gistserve.kernels.sparse.triton_bitmap import bitmap_matmul
from gistserve.kernels.sparse.triton_dense import bitmap_to_dense, segmented_to_dense
from gistserve.kernels.sparse.triton_segmented import segmented_matvec
from gistserve.kernels.sparse.triton_tiling import segmented_tiling

ROWS, COLUMNS = 4096, 4096
SEGMENTS = COLUMNS // 256
MULTIPROCESSORS = 132


@pytest.fixture(autouse=True)
def _multiprocessors(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (triton_bitmap, triton_segmented):
        monkeypatch.setattr(module, "multiprocessors", lambda _: MULTIPROCESSORS)


def balanced(count: int, dtype: torch.dtype) -> SegmentedRows:
    entries = ROWS * SEGMENTS * count
    columns, values = torch.empty(entries, dtype=torch.uint8), torch.empty(entries, dtype=dtype)
    return SegmentedRows((ROWS, COLUMNS), columns, values, None, count)


def ragged(groups: float, dtype: torch.dtype) -> SegmentedRows:
    entries = int(ROWS * SEGMENTS * groups) * 8
    columns, values = torch.empty(entries, dtype=torch.uint8), torch.empty(entries, dtype=dtype)
    offsets = torch.empty(ROWS * SEGMENTS + 1, dtype=torch.int32)
    return SegmentedRows((ROWS, COLUMNS), columns, values, offsets, None)


def bitmap(dtype: torch.dtype) -> BitmapTiles:
    bits = torch.empty(ROWS, COLUMNS // 8, dtype=torch.uint8)
    weight = BitmapWeight((ROWS, COLUMNS), bits, torch.empty(1024, dtype=dtype))
    return BitmapTiles(weight, torch.empty(ROWS, COLUMNS // TILE_COLUMNS, dtype=torch.int32))


def assert_no_spills(kernel: CompiledKernel, registers: int) -> None:
    assert kernel.num_spills == kernel.stack_bytes == 0
    assert kernel.registers <= registers


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("count", "batch", "dtype", "registers", "instructions"),
    [
        (24, 1, torch.bfloat16, 80, 9),
        (24, 1, torch.float16, 80, 9),
        (128, 1, torch.bfloat16, 84, 7),
        (24, 2, torch.bfloat16, 104, 13),
        (32, 4, torch.bfloat16, 124, 20),
        (32, 8, torch.bfloat16, 124, 37),
        (128, 8, torch.bfloat16, 116, 31),
    ],
)
def test_balanced_segments(count, batch, dtype, registers, instructions, capability):
    x = torch.empty(batch, COLUMNS, dtype=dtype)
    weight = balanced(count, dtype)
    (kernel,) = compile_launches(lambda: segmented_matvec(x, weight), capability=capability)[
        "segmented_kernel"
    ]
    assert_no_spills(kernel, registers)
    # Whole groups of entries in one load: 8 bytes of columns and 16 of values.
    loop = kernel.hot_loop
    assert kernel.count("LDG.E.64", within=loop) and kernel.count("LDG.E.128", within=loop)
    assert kernel.count("LDG.E.U8", within=loop) == 0
    tiling = segmented_tiling(
        ROWS,
        SEGMENTS,
        count // 8,
        balanced=True,
        batch=batch,
        num_multiprocessors=MULTIPROCESSORS,
    )
    nonzeros = tiling.rows * tiling.tile_segments * count / (32 * tiling.num_warps)
    assert len(loop) / nonzeros <= instructions


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("batch", "registers", "instructions"), [(1, 112, 11), (8, 144, 30)])
def test_ragged_segments(batch, registers, instructions, capability):
    x = torch.empty(batch, COLUMNS, dtype=torch.bfloat16)
    weight = ragged(3.7, torch.bfloat16)
    (kernel,) = compile_launches(lambda: segmented_matvec(x, weight), capability=capability)[
        "segmented_kernel"
    ]
    assert_no_spills(kernel, registers)
    # A look-up a vector, or one for four of them, for each entry that a thread takes.
    look_ups = kernel.count("LDS", within=kernel.hot_loop) / -(-batch // 4)
    assert len(kernel.hot_loop) / look_ups <= instructions


@pytest.mark.parametrize(
    ("capability", "batch", "registers", "instructions"),
    [
        (90, 16, 72, 10.5),
        (90, 32, 84, 10.5),
        (90, 64, 112, 11),
        # Triton 3.9 gives the counts of sm_90 here too, Triton 3.6 these.
        (80, 16, 72, 12),
        (80, 32, 84, 14),
        (80, 64, 112, 17),
    ],
)
def test_bitmap_product(capability, batch, registers, instructions):
    # On the CPU bfloat16 is launched as the interpreter needs it, float16 as on a GPU.
    x = torch.empty(batch, COLUMNS, dtype=torch.float16)
    weight = bitmap(torch.float16)
    kernels = compile_launches(lambda: bitmap_matmul(x, weight), capability=capability)
    (kernel,) = kernels["bitmap_matmul_kernel"]
    assert_no_spills(kernel, registers)
    # One load a dense element, and the element's tensor-core products, belong to the count.
    elements = kernel.count("LDG.E.U16", within=kernel.hot_loop)
    assert elements == 32
    assert kernel.count("HGMMA", "HMMA", within=kernel.hot_loop) >= 4
    assert len(kernel.hot_loop) / elements <= instructions
    assert_no_spills(kernels["partials_kernel"][0], 40)


@pytest.mark.parametrize("capability", [80, 90])
def test_dense_copies(capability):
    kernels = compile_launches(
        lambda: (
            bitmap_to_dense(bitmap(torch.bfloat16)),
            segmented_to_dense(balanced(24, torch.bfloat16)),
        ),
        capability=capability,
    )
    for kernel in kernels["decode_kernel"]:
        assert_no_spills(kernel, 48)
        elements = kernel.count("LDG.E.U16")
        assert elements == 32 and kernel.count("STG.E.128") == 4
        assert kernel.num_instructions / elements <= 13
    (bits,) = kernels["segment_bits_kernel"]
    assert_no_spills(bits, 40)
    assert bits.num_instructions <= 380
