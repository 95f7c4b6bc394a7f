"""Pruning by weights and activations (Sun et al. 2023, "A Simple and Effective Pruning Approach
for Large Language Models", arXiv 2306.11695)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import SparsityError
from .layer_inputs import LayerInputs
from .layers import decoder_layers, linear_size, weight_matrix

Prune = Callable[[str, Tensor], None]


@torch.no_grad()
def prune_by_wanda(
    model: PreTrainedModel, targets: Mapping[str, nn.Module], tokens: Tensor, prune: Prune
) -> None:
    """Call `prune(name, scores)` for every target, layer by layer.

    The scores, fp32 `[out, in]`, are |W_ij| * ||X_j||_2 (paper, equation 1), with X the layer's
    inputs over all `tokens` `[S, T]` in the model whose earlier layers are already pruned. A layer
    that no token reaches (an expert that is never chosen) is scored by |W_ij| alone.

    Raises SparsityError for targets outside the decoder's layers, and models whose layers cannot
    be run one by one.
    """
    prefix, layers = decoder_layers(model)
    if outside := [name for name in targets if not name.startswith(f"{prefix}.")]:
        raise SparsityError(
            f"{outside[0]} lies outside the decoder's layers and cannot be calibrated; leave it "
            "out, or choose the method magnitude"
        )
    training = model.training
    model.eval()
    try:
        _prune_layers(prefix, layers, LayerInputs(model, layers, tokens), targets, prune)
    finally:
        model.train(training)


def _prune_layers(
    prefix: str,
    layers: Sequence[nn.Module],
    inputs: LayerInputs,
    targets: Mapping[str, nn.Module],
    prune: Prune,
) -> None:
    for index in range(len(layers)):
        inside = {n: m for n, m in targets.items() if n.startswith(f"{prefix}.{index}.")}
        with _input_norms(inside) as norms:
            for _ in inputs.run():
                pass
        for name, module in inside.items():
            prune(name, _scores(weight_matrix(module), norms[name]))
        if index + 1 < len(layers):
            inputs.advance()


def _scores(weight: Tensor, squares: Tensor) -> Tensor:
    magnitude = weight.float().abs()
    return magnitude * squares.sqrt().float() if squares.any() else magnitude


@contextmanager
def _input_norms(targets: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Collects, fp64 `[in]`, the sum of squares of every input feature of each target."""
    sums: dict[str, Tensor] = {}

    def collect(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            sums[name] += args[0].reshape(-1, args[0].shape[-1]).double().square().sum(0)

        return add

    handles = []
    for name, module in targets.items():
        weight = weight_matrix(module)
        sums[name] = weight.new_zeros(linear_size(module)[1], dtype=torch.float64)
        handles.append(module.register_forward_pre_hook(collect(name)))
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()
