"""Puts pruned layers into a model, moves their masks, and takes them out again."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from ...compress.errors import SparsityError
from ...compress.sparse.layers import is_dense_linear, linear_size
from ...compress.sparse.pattern import Pattern
from .functions import Factors
from .layers import LowRankLinear, MagnitudeLinear, MovementLinear, PrunedLinear
from .selection import check_pattern

Method = Literal["pst", "movement", "magnitude", "dense"]


@dataclass(frozen=True)
class PruneSettings:
    """What `prune` does: method, final sparsity, pattern, ranks, factors, and which layers.

    `layers` are full names or endings of linear layers; None takes all in the transformer blocks.
    """

    method: Method
    sparsity: float
    pattern: Pattern = Pattern.unstructured
    weight_rank: int = 8
    score_rank: int = 8
    factors: Factors = field(default_factory=Factors)
    layers: tuple[str, ...] | None = None


class Pruner:
    """The pruned layers of one model, by name."""

    def __init__(
        self, model: PreTrainedModel, layers: dict[str, PrunedLinear], pattern: Pattern
    ) -> None:
        self.model = model
        self.layers = layers
        self.pattern = pattern

    def update_masks(self, sparsity: float) -> None:
        """Set every layer's mask anew, at that sparsity."""
        for layer in self.layers.values():
            layer.update_mask(sparsity, self.pattern)

    def sparsity(self) -> float:
        """The share of zeros among all weights that are pruned."""
        sizes = [layer.weight.numel() for layer in self.layers.values()]
        kept = sum(int(layer.mask().sum()) for layer in self.layers.values())
        return 1 - kept / sum(sizes) if sizes else 0.0

    def merge(self) -> dict[str, torch.Tensor]:
        """Put plain linear layers with the masked weights back into the model.

        Returns the masks by module, in the shape of each layer's own weight.
        """
        masks = {}
        for name, layer in self.layers.items():
            mask = layer.mask()
            masks[name] = mask.T.contiguous() if layer.is_conv1d else mask
            self.model.set_submodule(name, layer.to_linear())
        return masks


def prune(model: PreTrainedModel, settings: PruneSettings) -> Pruner:
    """Replace linear layers of `model` in place; `Pruner.merge` undoes it. Nothing is masked yet.

    PST freezes everything in the model but what it adds; movement and magnitude pruning train the
    rest too, but not the embeddings, which their source freezes (Sanh et al. 2020, section 5; one
    table with a tied head). Raises SparsityError for names that match no linear layer, and for a
    sparsity that the pattern cannot express on one of them.
    """
    if settings.method == "dense":
        return Pruner(model, {}, settings.pattern)
    chosen = pruned_layers(model, settings.layers)
    for name, layer in chosen.items():
        check_pattern(name, linear_size(layer), settings.sparsity, settings.pattern)
    for module in [model] if settings.method == "pst" else _embeddings(model):
        module.requires_grad_(False)
    layers = {name: _pruned(layer, settings) for name, layer in chosen.items()}
    for name, pruned in layers.items():
        model.set_submodule(name, pruned)
    return Pruner(model, layers, settings.pattern)


def pruned_layers(model: PreTrainedModel, only: Iterable[str] | None) -> dict[str, nn.Module]:
    """The linear layers inside the transformer blocks, or those of them named in `only`.

    Raises SparsityError for a name that is neither a layer's nor the end of one, and where there
    is none at all.
    """
    inner = {
        name: module
        for name, module in model.named_modules()
        if is_dense_linear(module) and _in_block(name)
    }
    if not inner:
        raise SparsityError(f"{type(model).__name__} has no linear layer in transformer blocks")
    if only is None:
        return inner
    for choice in only:
        if not any(_matches(name, choice) for name in inner):
            endings = sorted({_ending(name) for name in inner})
            raise SparsityError(
                f"layers: {choice!r} matches no linear layer in the blocks of "
                f"{type(model).__name__}; their names end in {', '.join(endings)}"
            )
    return {n: module for n, module in inner.items() if any(_matches(n, c) for c in only)}


def _embeddings(model: PreTrainedModel) -> list[nn.Module]:
    """Those before the blocks: not the table of relative positions in a block of T5."""
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and not _in_block(name)
    ]


def _in_block(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def _matches(name: str, choice: str) -> bool:
    return name == choice or name.endswith(f".{choice}")


def _ending(name: str) -> str:
    """The name behind the last number: `attention.self.query`."""
    parts = name.split(".")
    last = max(index for index, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[last + 1 :]) or name


def _pruned(layer: nn.Module, settings: PruneSettings) -> PrunedLinear:
    if settings.method == "magnitude":
        return MagnitudeLinear(layer)
    if settings.method == "movement":
        return MovementLinear(layer)
    return LowRankLinear(
        layer,
        weight_rank=settings.weight_rank,
        score_rank=settings.score_rank,
        factors=settings.factors,
    )
