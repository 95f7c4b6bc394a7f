"""Bytes and operations against counting them."""

import pytest
import torch
from gistserve.bench.gpu.attention_inputs import (
    AttentionCase,
    DenseInputs,
    PagedInputs,
    attend,
)
from gistserve.bench.gpu.decode_step import kv_bytes
from gistserve.bench.gpu.device import BenchDevice
from gistserve.bench.gpu.floor import Ceilings
from gistserve.bench.gpu.measurement import Measurement
from gistserve.bench.gpu.model_shapes import LLAMA_1B, LLAMA_8B, TINY
from gistserve.bench.gpu.random_models import RandomModel, dense_weight_bytes
from gistserve.kernels.sparse import SparseLinear
from torch.nn.functional import scaled_dot_product_attention

CASE = AttentionCase(TINY, batch=3, length=37, new=5)


def test_the_floor_is_the_larger_need() -> None:
    ceilings = Ceilings(bandwidth=2e9, matmul_rate=1e12)
    bound = Measurement("s", "a", {}, "measured", floor_bytes=4e6, floor_flops=1e9)
    assert ceilings.floor_ms(bound) == 2.0
    assert Ceilings(None, 1e12).floor_ms(bound) == 1.0
    assert Ceilings(None, None).floor_ms(bound) is None


def test_attention_counts_what_lies_in_memory() -> None:
    inputs = DenseInputs.random(CASE, BenchDevice.dry_run(), 1)
    elements = inputs.keys[0].numel() + inputs.values[0].numel()
    assert CASE.kv_bytes == 2 * elements
    assert CASE.floor_bytes == 2 * (elements + 2 * inputs.query.numel())
    pairs = sum(32 + i + 1 for i in range(5)) * 3 * TINY.num_heads
    assert CASE.floor_flops == 4 * pairs * TINY.head_dim


@pytest.mark.parametrize(("shape", "billions"), [(LLAMA_1B, 1.24), (LLAMA_8B, 8.03)])
def test_a_step_reads_the_published_number_of_weights(shape, billions: float) -> None:
    """The 8B model has an embedding table beside its head, which a step hardly reads."""
    table = 0 if shape.tied_head else shape.hidden_size * shape.vocab_size
    assert (dense_weight_bytes(shape, 1) + table) / 1e9 == pytest.approx(billions, rel=0.005)


def test_a_step_reads_every_parameter_and_slot() -> None:
    dense = RandomModel.make(TINY, 0.0, BenchDevice.dry_run())
    assert dense.weight_bytes == sum(p.numel() * 4 for p in dense.model.parameters())
    slots = 2 * 3 * 7 * TINY.num_layers * TINY.num_kv_heads * TINY.head_dim * 4
    assert kv_bytes(TINY, 3 * 7, 4) == slots


def test_a_sparse_model_reads_what_its_layers_hold() -> None:
    sparse = RandomModel.make(TINY, 0.9, BenchDevice.dry_run())
    layers = [m for m in sparse.model.modules() if isinstance(m, SparseLinear)]
    assert len(layers) == 7 * TINY.num_layers
    assert all(layer.nnz <= 0.12 * layer.in_features * layer.out_features for layer in layers)
    others = sum(
        p.numel() * 4 for name, p in sparse.model.named_parameters() if "_proj" not in name
    )
    assert sparse.weight_bytes == others + sum(layer.prepare().num_bytes for layer in layers)


def test_the_reference_is_attention() -> None:
    inputs = DenseInputs.random(CASE, BenchDevice.dry_run(), 1)
    index = torch.arange(37)
    theirs = scaled_dot_product_attention(
        inputs.query.double(),
        inputs.keys[0].double(),
        inputs.values[0].double(),
        attn_mask=index <= index[-5:, None],
        enable_gqa=True,
    )
    torch.testing.assert_close(inputs.reference(), theirs)


def test_pages_hold_the_same_as_dense_rows() -> None:
    inputs = PagedInputs.random(CASE, BenchDevice.dry_run(), 2)
    keys, values = (
        torch.stack([cache[table].flatten(0, 1)[:37] for table in inputs.tables[0].long()])
        for cache in (inputs.key_cache, inputs.value_cache)
    )
    query = inputs.query.view(3, 5, TINY.num_heads, TINY.head_dim)
    parts = (states.double().transpose(1, 2) for states in (query, keys, values))
    theirs = attend(*parts).transpose(1, 2).reshape(15, TINY.num_heads, TINY.head_dim)
    torch.testing.assert_close(inputs.reference(CASE), theirs)
    slots = inputs.metadata[1].slot_mapping.view(3, 5)
    assert (slots[:, 0] == inputs.tables[1][:, 2] * 16).all()  # slot 32 of each sequence
    assert len(set(inputs.tables.flatten().tolist())) == inputs.tables.numel()
