"""What the sparse section multiplies, and what it counts."""

import pytest
import torch
from gistserve.bench.gpu import sparse
from gistserve.bench.gpu.device import BenchDevice
from gistserve.bench.gpu.floor import Ceilings
from gistserve.bench.gpu.sparse_weights import SparseWeights, exact_mask
from gistserve.bench.gpu.standards import judge

from .samples import measured

SHAPE = (24, 512)


@pytest.fixture
def weights() -> SparseWeights:
    return SparseWeights(BenchDevice.dry_run(), SHAPE, 0.9)


def test_masks_keep_exactly_so_many_of_each_group() -> None:
    mask = exact_mask(BenchDevice.dry_run(), SHAPE, 4, 2)
    assert torch.equal(mask.view(-1, 4).sum(1), torch.full((24 * 128,), 2))


def test_weights_are_as_sparse_as_asked(weights: SparseWeights) -> None:
    counts = weights.balanced.to_dense().view(-1, 256).ne(0).sum(1)
    assert (counts == 26).all()
    assert (weights.grouped.to_dense().view(-1, 256).ne(0).sum(1) == 24).all()
    assert weights.ragged.sparsity == pytest.approx(0.9, abs=0.02)
    assert weights.dense_bytes == 24 * 512 * 4


def test_every_arm_gives_the_product_of_its_reference(weights: SparseWeights) -> None:
    for batch in (1, 16):
        for arm in sparse.arms(weights.device, 0.9, batch):
            prepared = sparse.prepare(arm, weights, batch)
            assert prepared.reference is not None and len(prepared.calls) > 1
            for call in prepared.calls:  # copies hold the same weight
                torch.testing.assert_close(call().double(), prepared.reference(), atol=1e-4, rtol=0)


def test_bytes_are_those_of_the_format(weights: SparseWeights) -> None:
    traffic = 4 * (24 + 512)
    dense = sparse.prepare(sparse.DENSE, weights, 1)
    assert dense.floor_bytes == weights.dense_bytes + traffic
    segmented = sparse.prepare("segmented", weights, 1)
    size = 24 * 2 * 32 * (1 + 4)  # 26 entries padded to 32, a byte and a float32 each
    assert segmented.floor_bytes == size + traffic
    assert segmented.facts["times_smaller"] == weights.dense_bytes / size


def test_layers_are_held_to_the_standard_of_their_sparsity() -> None:
    def pair(sparsity: float, batch: int, speed: float) -> list:
        case = {"shape": "4096x4096", "sparsity": sparsity, "batch": batch}
        layer = measured(sparse.SECTION, sparse.LAYER, case, 1.0)
        layer.facts = {"times_smaller": 5.9}
        return [layer, measured(sparse.SECTION, sparse.DENSE, case, speed)]

    measurements = [*pair(0.9, 1, 3.1), *pair(0.5, 1, 1.1), *pair(0.9, 8, 0.98)]
    verdicts = judge(measurements, Ceilings(None, None))
    assert [(v.wanted, v.value, v.outcome) for v in verdicts] == [
        (3.0, 3.1, "pass"),
        (6.0, 5.9, "FAIL"),
        (1.15, 1.1, "FAIL"),
        (0.97, 0.98, "pass"),
    ]
