"""Forward, masks and gradients against a dense computation in float64."""

import copy

import numpy as np
import pytest
import torch
from gistserve.compress.sparse import Pattern
from gistserve.training.pst import functions
from gistserve.training.pst.functions import Factors
from gistserve.training.pst.layers import (
    LowRankLinear,
    MagnitudeLinear,
    MovementLinear,
    PrunedLinear,
)
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

FACTORS = Factors(beta=0.7, alpha_1=0.5, alpha_2=0.3)
NAMES = ("u", "v", "a", "b", "r", "c")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[1 << 22, 50], ids=["one block", "blocks of two rows"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "BLOCK_ELEMENTS", request.param)


def pst_layer(layer: nn.Module) -> LowRankLinear:
    """A layer whose parameters are all away from zero, at 60% sparsity."""
    pruned = LowRankLinear(layer, weight_rank=3, score_rank=2, factors=FACTORS)
    with torch.no_grad():
        for name in NAMES:
            getattr(pruned, name).normal_()
    pruned.update_mask(0.6, Pattern.unstructured)
    return pruned


def double_linear(bias: bool = True) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(20, 12, bias=bias).double()


def inputs() -> Tensor:
    torch.manual_seed(4)
    return torch.randn(2, 5, 20, dtype=torch.float64, requires_grad=True)


def test_score_is_the_formula() -> None:
    layer = pst_layer(double_linear())
    w, u, v, a, b, r, c = (
        tensor.detach().numpy()
        for tensor in (layer.weight, *(getattr(layer, name) for name in NAMES))
    )
    score = np.abs(w + 0.7 * u @ v) + 0.5 * a @ b + 0.3 * (r[:, None] + c[None, :])
    assert np.allclose(layer.scores().numpy(), score, atol=1e-6)
    kept = np.zeros(240, bool)
    kept[np.argsort(-score.ravel())[:96]] = True
    assert (layer.mask().numpy() == kept.reshape(12, 20)).all()


def test_it_starts_as_the_layer_that_it_replaces() -> None:
    linear = nn.Linear(64, 48)
    layer = LowRankLinear(linear, weight_rank=16, score_rank=4, factors=Factors())
    x = torch.randn(3, 64)
    assert torch.equal(layer.scores(), linear.weight.detach().abs())
    torch.testing.assert_close(layer(x), linear(x))
    assert not any(getattr(layer, name).any() for name in ("v", "b", "r", "c"))
    assert layer.u.std().item() == pytest.approx(16**-0.5, rel=0.1)
    assert layer.a.std().item() == pytest.approx(4**-0.5, rel=0.2)


def relaxed(layer: LowRankLinear, x: Tensor, parameters: list[Tensor]) -> Tensor:
    """(M + S - S0) * W': at S = S0 the straight-through gradient is its true one."""
    u, v, a, b, r, c = parameters
    weight = layer.weight + FACTORS.beta * u @ v
    score = weight.abs() + FACTORS.alpha_1 * a @ b + FACTORS.alpha_2 * (r[:, None] + c)
    at_start = layer.scores_in_double  # type: ignore[attr-defined]
    out = x @ ((layer.mask() + score - at_start) * weight).T
    return out if layer.bias is None else out + layer.bias


def start_scores(layer: LowRankLinear) -> Tensor:
    u, v, a, b, r, c = (getattr(layer, name).detach() for name in NAMES)
    weight = (layer.weight + FACTORS.beta * u @ v).abs()
    return (weight + FACTORS.alpha_1 * a @ b + FACTORS.alpha_2 * (r[:, None] + c)).detach()


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("bias", [True, False])
def test_pst_gradients_are_those_of_the_relaxed_form(bias: bool) -> None:
    layer, x = pst_layer(double_linear(bias)), inputs()
    layer.scores_in_double = start_scores(layer)  # type: ignore[assignment]
    direction = torch.randn(2, 5, 12, dtype=torch.float64)
    out = layer(x)
    out.backward(direction)
    twin_x = x.detach().requires_grad_()
    twins = [getattr(layer, name).detach().requires_grad_() for name in NAMES]
    expected = relaxed(layer, twin_x, twins)
    torch.testing.assert_close(out, expected)
    expected.backward(direction)
    torch.testing.assert_close(x.grad, twin_x.grad)
    for name, twin in zip(NAMES, twins, strict=True):
        torch.testing.assert_close(getattr(layer, name).grad, twin.grad)
    assert layer.weight.grad is None


@pytest.mark.usefixtures("blocks")
def test_pst_gradients_by_finite_differences() -> None:
    layer, x = pst_layer(double_linear()), inputs()
    layer.scores_in_double = start_scores(layer)  # type: ignore[assignment]
    direction = torch.randn(2, 5, 12, dtype=torch.float64)
    (layer(x) * direction).sum().backward()
    step = 1e-6
    for index, name in enumerate(NAMES):
        values = [getattr(layer, other).detach().clone() for other in NAMES]
        slope = torch.empty_like(values[index])
        for place in np.ndindex(*slope.shape):
            ends = []
            for sign in (1, -1):
                moved = [value.clone() for value in values]
                moved[index][place] += sign * step
                ends.append((relaxed(layer, x.detach(), moved) * direction).sum())
            slope[place] = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(getattr(layer, name).grad, slope.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("kind", [MagnitudeLinear, MovementLinear])
def test_baselines_gradients(kind: type[PrunedLinear]) -> None:
    layer, x = kind(double_linear()), inputs()
    if isinstance(layer, MovementLinear):
        nn.init.normal_(layer.importance)
    layer.update_mask(0.6, Pattern.unstructured)
    mask = layer.mask()
    assert mask.sum() == 96
    direction = torch.randn(2, 5, 12, dtype=torch.float64)
    layer(x).backward(direction)
    weight = layer.weight.detach().requires_grad_()
    ones = torch.ones_like(weight, requires_grad=True)  # stands for the mask
    twin_x = x.detach().requires_grad_()
    (twin_x @ (mask * ones * weight).T).backward(direction)
    torch.testing.assert_close(layer.weight.grad, weight.grad)
    torch.testing.assert_close(x.grad, twin_x.grad)
    outer = direction.reshape(-1, 12).T @ x.detach().reshape(-1, 20)
    if isinstance(layer, MovementLinear):
        torch.testing.assert_close(layer.importance.grad, outer * layer.weight.detach())
    assert layer.bias is not None
    torch.testing.assert_close(layer.bias.grad, direction.sum((0, 1)))


def test_conv1d_is_pruned_as_its_transpose() -> None:
    torch.manual_seed(0)
    conv = Conv1D(12, 20)  # 20 inputs, 12 outputs, weight [20, 12]
    nn.init.normal_(conv.bias)
    linear = nn.Linear(20, 12)
    linear.weight = nn.Parameter(conv.weight.detach().T.contiguous())
    linear.bias = nn.Parameter(conv.bias.detach().clone())
    torch.manual_seed(1)
    from_conv = pst_layer(conv)
    torch.manual_seed(1)
    from_linear = pst_layer(linear)
    x = torch.randn(4, 20)
    assert torch.equal(from_conv.mask(), from_linear.mask())
    torch.testing.assert_close(from_conv(x), from_linear(x))
    back = from_conv.to_linear()
    assert isinstance(back, Conv1D)
    assert back.weight.shape == (20, 12)
    assert (back.weight != 0).sum() == 96
    torch.testing.assert_close(back(x), from_conv(x))


@pytest.mark.parametrize("kind", [MagnitudeLinear, MovementLinear, "pst"])
def test_evaluation_and_the_merged_layer_equal_training(kind: type[PrunedLinear] | str) -> None:
    linear = nn.Linear(20, 12)
    layer = pst_layer(linear) if isinstance(kind, str) else kind(linear)
    layer.update_mask(0.5, Pattern.unstructured)
    x = torch.randn(4, 20)
    trained = layer(x)
    merged = layer.to_linear()
    assert type(merged) is nn.Linear
    torch.testing.assert_close(merged(x), trained)
    assert (merged.weight == 0).sum() == 120
    layer.eval()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), trained)
        layer.update_mask(0.9, Pattern.unstructured)  # drops what evaluation has kept
        assert not torch.allclose(layer(x), trained)


def test_the_mask_moves_only_when_told() -> None:
    layer = pst_layer(nn.Linear(20, 12))
    before = layer.mask()
    with torch.no_grad():
        layer.b.mul_(-10)
    layer(torch.randn(4, 20))
    assert torch.equal(layer.mask(), before)
    layer.update_mask(0.6, Pattern.unstructured)
    assert not torch.equal(layer.mask(), before)


def test_autocast_computes_in_bfloat16_from_exact_weights() -> None:
    layer = pst_layer(nn.Linear(20, 12))
    x = torch.randn(4, 20, requires_grad=True)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    rounded = x.bfloat16() @ layer.masked_weight().bfloat16().T + layer.bias.bfloat16()
    torch.testing.assert_close(out, rounded)
    torch.testing.assert_close(out.float(), exact, atol=0.2, rtol=0.05)
    out.float().sum().backward()
    assert layer.u.grad is not None and layer.u.grad.dtype == torch.float32


def test_only_inputs_parameters_and_bits_are_kept_for_the_backward_pass() -> None:
    layer = pst_layer(nn.Linear(256, 192))
    x = torch.randn(4, 256, requires_grad=True)
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    held = {p.data_ptr() for p in (x, *layer.parameters(), *layer.buffers())}
    assert saved
    assert {tensor.data_ptr() for tensor in saved} <= held


def test_frozen_weights_may_be_in_bfloat16() -> None:
    linear = nn.Linear(20, 12)
    layer = pst_layer(copy.deepcopy(linear).bfloat16())
    assert {getattr(layer, name).dtype for name in NAMES} == {torch.float32}
    assert layer.masked_weight().dtype == torch.bfloat16
    x = torch.randn(4, 20).bfloat16()
    expected = (x.float() @ layer.masked_weight().float().T + layer.bias.float()).bfloat16()
    torch.testing.assert_close(layer(x), expected, atol=0.1, rtol=0.02)
