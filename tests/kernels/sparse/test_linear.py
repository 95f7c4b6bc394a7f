"""The sparse layer as a module: formats, copies, moves, state dicts, and what it refuses."""

import copy
import io

import pytest
import torch
from gistserve.kernels.sparse import (
    BitmapWeight,
    CsrWeight,
    DenseWeight,
    SparseLinear,
    reference_sparse_linear,
)
from torch import nn

from .samples import DTYPES, masked_weight

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def sparse_layer(
    sparsity: float = 0.95, dtype: torch.dtype = torch.float32, bias: bool = True, rows: int = 24
) -> SparseLinear:
    weight, mask = masked_weight(rows, 300, sparsity, dtype)
    offset = torch.randn(rows, generator=torch.Generator().manual_seed(7)).to(dtype)
    return SparseLinear.from_bitmap(BitmapWeight.from_dense(weight, mask), offset if bias else None)


def vectors(*sizes: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*sizes, 300, generator=torch.Generator().manual_seed(3)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sparsity", "runtime"), [(0.3, DenseWeight), (0.95, CsrWeight)])
def test_the_layer_multiplies_in_the_format_it_chose(sparsity, runtime, dtype):
    layer = sparse_layer(sparsity, dtype)
    x = vectors(2, 3, dtype=dtype)
    expected = reference_sparse_linear(x, layer.bitmap(), layer.bias)
    with torch.inference_mode():
        result = layer(x)
    assert isinstance(layer.prepare(), runtime)
    assert result.shape == (2, 3, 24)
    assert result.dtype == dtype
    assert (result - expected).norm() <= TOLERANCE[dtype] * expected.norm()


@pytest.mark.parametrize("sparsity", [0.3, 0.95])
def test_only_one_form_of_the_weight_is_held(sparsity):
    layer = sparse_layer(sparsity)
    assert {name for name, _ in layer.named_buffers()} == {"weight_bitmap", "weight_values"}
    layer.prepare()
    assert not list(layer.buffers())
    assert [name for name, _ in layer.named_parameters()] == ["bias"]


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("sparsity", [0.3, 0.95])
def test_a_state_dict_is_bitmap_and_values_whatever_the_format(sparsity, prepared):
    layer = sparse_layer(sparsity, torch.bfloat16)
    stored = layer.bitmap()
    if prepared:
        layer.prepare()
    state = layer.state_dict()
    assert set(state) == {"weight_bitmap", "weight_values", "bias"}
    assert torch.equal(state["weight_bitmap"], stored.bitmap)
    assert torch.equal(state["weight_values"], stored.values)

    other = sparse_layer(0.5, torch.bfloat16)
    other.prepare()
    other.load_state_dict(state)
    assert torch.equal(other(vectors(4, dtype=torch.bfloat16)), layer(vectors(4).bfloat16()))
    assert other.nnz == layer.nnz


def test_kept_zeros_survive_every_format():
    weight = torch.zeros(4, 40)
    mask = torch.rand(4, 40) > 0.5
    for runtime in (DenseWeight, CsrWeight):
        stored = BitmapWeight.from_dense(weight, mask)
        assert torch.equal(runtime.from_bitmap(stored).to_bitmap().mask(), mask)


def test_a_layer_is_built_on_meta_and_loaded():
    layer = sparse_layer()
    empty = SparseLinear(300, 24, nnz=layer.nnz, device="meta", dtype=torch.float32)
    assert all(part.device.type == "meta" for part in empty.state_dict().values())
    with pytest.raises(RuntimeError, match="meta device"):
        empty.prepare()
    empty.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(empty(vectors(1)), layer(vectors(1)))


def test_buffers_set_one_by_one_are_used():
    """transformers loads a module on the meta device by setting its buffers and parameters."""
    layer = sparse_layer()
    empty = SparseLinear(300, 24, nnz=0, device="meta")
    for name, part in layer.state_dict().items():
        setattr(empty, name, nn.Parameter(part, requires_grad=False) if name == "bias" else part)
    assert torch.equal(empty(vectors(1)), layer(vectors(1)))
    assert empty.nnz == layer.nnz


@pytest.mark.parametrize("prepared", [False, True])
def test_copies_are_independent(prepared):
    layer = sparse_layer()
    if prepared:
        layer.prepare()
    expected = layer(vectors(20))
    twin = copy.deepcopy(layer)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    with torch.no_grad():
        layer.load_state_dict(
            {name: 0 * part for name, part in sparse_layer(1.0).state_dict().items()}
        )
    assert torch.equal(twin(vectors(20)), expected)
    assert torch.equal(loaded(vectors(20)), expected)
    assert not layer(vectors(20)).any()


@pytest.mark.parametrize("prepared", [False, True])
def test_a_move_to_another_dtype_converts_the_values(prepared):
    layer = sparse_layer()
    if prepared:
        layer.prepare()
    dense = layer.weight
    layer.to(torch.bfloat16)
    assert layer.weight.dtype == torch.bfloat16
    assert torch.equal(layer.weight, dense.bfloat16())
    assert layer.bias.dtype == torch.bfloat16
    assert layer(vectors(1).bfloat16()).dtype == torch.bfloat16
    assert layer.prepare().dtype == torch.bfloat16


def test_a_dense_layer_is_taken_over():
    dense = nn.Linear(300, 24)
    mask = torch.rand(24, 300) > 0.95
    layer = SparseLinear.from_linear(dense, mask)
    assert torch.equal(layer.weight, dense.weight * mask)
    assert torch.equal(layer.bias, dense.bias)
    assert not any(part.requires_grad for part in layer.parameters())


@pytest.mark.parametrize("prepared", [False, True])
def test_concatenated_layers_give_their_outputs_side_by_side(prepared):
    layers = [sparse_layer(rows=8), sparse_layer(rows=5, bias=False), sparse_layer(0.99, rows=11)]
    if prepared:
        for layer in layers:
            layer.prepare()
    joined = SparseLinear.concatenate(layers)
    x = vectors(3)
    apart = torch.cat([layer(x) for layer in layers], dim=-1)
    torch.testing.assert_close(joined(x), apart, rtol=1e-6, atol=1e-6)
    assert SparseLinear.concatenate([layers[1], layers[1]]).bias is None


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [(300, torch.float32), (301, torch.float32)],
        [(300, torch.float32), (300, torch.float16)],
    ],
)
def test_layers_that_do_not_fit_together_are_refused(layers):
    parts = [SparseLinear(columns, 4, 0, dtype=dtype) for columns, dtype in layers]
    with pytest.raises(ValueError, match="must agree"):
        SparseLinear.concatenate(parts)


@pytest.mark.parametrize("nnz", [-1, 13])
def test_impossible_counts_are_refused(nnz):
    with pytest.raises(ValueError, match="between 0 and 12"):
        SparseLinear(3, 4, nnz=nnz)


def test_a_corrupted_bitmap_is_refused_when_loaded_and_when_prepared():
    layer = sparse_layer()
    state = layer.state_dict()
    state["weight_bitmap"] = state["weight_bitmap"] ^ 1
    with pytest.raises(RuntimeError, match="corrupted bitmap"):
        sparse_layer().load_state_dict(state)
    layer.weight_bitmap = state["weight_bitmap"]
    with pytest.raises(ValueError, match="corrupted bitmap"):
        layer(vectors(1))


def test_missing_parts_are_reported():
    state = sparse_layer().state_dict()
    del state["weight_values"]
    prepared = sparse_layer()
    prepared.prepare()
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*weight_values"):
        prepared.load_state_dict(state)


def test_the_format_shows():
    layer = sparse_layer()
    assert "CsrWeight" not in repr(layer)
    layer.prepare()
    assert "nnz=" in repr(layer)
    assert "CsrWeight" in repr(layer)
