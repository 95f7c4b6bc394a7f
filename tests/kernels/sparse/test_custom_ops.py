"""The registered operators: schemas, fakes, and one node in a captured graph."""

import pytest
import torch
from gistserve.kernels.sparse import (
    BitmapTiles,
    BitmapWeight,
    CsrWeight,
    SegmentedRows,
    reference_sparse_linear,
    sparse_linear,
)
from gistserve.kernels.sparse.custom_ops import in_passes

from .samples import balanced_mask, masked_weight

ops = torch.ops.gistserve


def parts(balanced: bool = False) -> tuple[torch.Tensor, BitmapWeight, torch.Tensor]:
    weight, mask = masked_weight(12, 300, 0.8)
    if balanced:
        mask = balanced_mask(12, 300, 24, 9)
    return torch.randn(3, 300), BitmapWeight.from_dense(weight, mask), torch.randn(12)


@pytest.mark.parametrize("with_bias", [False, True])
def test_csr_matmul_is_a_sound_operator(with_bias):
    x, weight, bias = parts()
    csr = CsrWeight.from_bitmap(weight)
    arguments = (x, csr.row_starts, csr.columns, csr.values, bias if with_bias else None)
    torch.library.opcheck(ops.csr_matmul.default, arguments)


@pytest.mark.parametrize("balanced", [False, True])
def test_segmented_operators_are_sound(balanced):
    x, weight, bias = parts(balanced)
    rows = SegmentedRows.from_bitmap(weight)
    assert rows.is_balanced == balanced
    fields = (rows.columns, rows.values, rows.offsets, rows.count, 12)
    torch.library.opcheck(ops.segmented_matmul.default, (x, *fields, bias))
    torch.library.opcheck(ops.segmented_to_dense.default, (*fields, 300))


def test_bitmap_operators_are_sound():
    x, weight, bias = parts()
    tiles = BitmapTiles.from_bitmap(weight)
    fields = (weight.bitmap, weight.values, tiles.offsets)
    torch.library.opcheck(ops.bitmap_matmul.default, (x, *fields, bias))
    torch.library.opcheck(ops.bitmap_to_dense.default, (*fields, 300))


@pytest.mark.parametrize(
    ("runtime", "batch", "node"),
    [
        (CsrWeight, 1, "csr_matmul"),
        (SegmentedRows, 8, "segmented_matmul"),
        (SegmentedRows, 100, "segmented_to_dense"),
        (BitmapTiles, 64, "bitmap_matmul"),
        (BitmapTiles, 100, "bitmap_to_dense"),
    ],
)
def test_a_captured_graph_holds_the_operator(runtime, batch, node):
    _, weight, bias = parts()
    converted = runtime.from_bitmap(weight)
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    x = torch.randn(batch, 300)
    compiled = torch.compile(sparse_linear, backend=backend, fullgraph=True)
    result = compiled(x, converted, bias)
    (graph,) = graphs
    assert sum(node in str(call.target) for call in graph.graph.nodes) == 1
    expected = reference_sparse_linear(x, weight, bias)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 8, 9, 16, 19])
def test_passes_cover_the_batch_and_none_is_too_large(batch):
    sizes = []

    def multiply(part: torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        return 2 * part

    x = torch.randn(batch, 3)
    assert torch.equal(in_passes(multiply, x, 8), 2 * x)
    assert max(sizes) <= 8
    assert len(sizes) == -(-batch // 8)
