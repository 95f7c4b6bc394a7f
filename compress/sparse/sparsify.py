"""Sets the least important weights of a model to zero."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import SparsityError
from .layers import prunable_layers, sparse_modules, weight_matrix, zero
from .pattern import Pattern, check_sparsity, keep_mask
from .wanda import prune_by_wanda

Progress = Callable[[int, int], None]
_Choice = TypeVar("_Choice", bound=StrEnum)


class Method(StrEnum):
    """How weights are scored: by themselves, or together with the activations they meet."""

    magnitude = "magnitude"
    wanda = "wanda"


@dataclass(frozen=True, kw_only=True)
class SparseRecipe:
    """How a model became sparse, for `save_sparse`.

    `method` names the method in plain words, `sparsity` is the share of zeros that was asked for
    (None: it differs between modules), `modules` are the full names of the sparse linear layers,
    `details` whatever else the checkpoint shall tell about its making (JSON values).
    """

    method: str
    modules: tuple[str, ...]
    sparsity: float | None = None
    pattern: Pattern = Pattern.unstructured
    details: dict[str, Any] = field(default_factory=dict)


def sparsify(
    model: PreTrainedModel,
    *,
    sparsity: float,
    method: Method | str = Method.magnitude,
    pattern: Pattern | str = Pattern.unstructured,
    calibration: Tensor | None = None,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    on_progress: Progress | None = None,
) -> SparseRecipe:
    """Set weights of `model` to zero, in place, and tell which; `save_sparse` takes the result.

    Magnitude compares |W_ij| within a whole matrix; wanda |W_ij| * ||X_j||_2 within an output's
    row, layer by layer on the activations of the layers pruned before. How many are kept is exact
    (see `keep_mask`).

    Args:
        sparsity: share of zeros in every pruned matrix, in [0, 1).
        calibration: token ids int64 `[S, T]`, for wanda (see `calibration_tokens`).
        only, skip: choose the linear layers (see `prunable_layers`).
        on_progress: called with the number of matrices done and of all.

    Raises:
        SparsityError: a setting out of range, a model that cannot be pruned this way.
    """
    method, pattern = _choice(Method, method), _choice(Pattern, pattern)
    check_sparsity(sparsity, pattern)
    if sparse_modules(model):
        raise SparsityError(f"this {type(model).__name__} is sparse already; take the dense model")
    targets = prunable_layers(model, only, skip)
    done = 0

    def prune(name: str, scores: Tensor) -> None:
        nonlocal done
        by_row = method is Method.wanda
        try:
            keep = keep_mask(scores, sparsity, pattern, by_row=by_row)
        except SparsityError as error:
            raise SparsityError(f"{name} cannot be pruned: {error}") from error
        zero(targets[name], keep)
        done += 1
        if on_progress is not None:
            on_progress(done, len(targets))

    details: dict[str, Any] = {}
    if method is Method.wanda:
        tokens = _checked_calibration(model, calibration)
        details = {"calibration_samples": len(tokens), "calibration_length": tokens.shape[1]}
        prune_by_wanda(model, targets, tokens, prune)
    else:
        for name, module in targets.items():
            prune(name, weight_matrix(module).float().abs())
    return SparseRecipe(
        method=str(method),
        modules=tuple(targets),
        sparsity=sparsity,
        pattern=pattern,
        details=details,
    )


def _choice(kind: type[_Choice], value: str) -> _Choice:
    try:
        return kind(value)
    except ValueError:
        raise SparsityError(
            f"{kind.__name__.lower()} must be one of {', '.join(kind)}, got {value!r}"
        ) from None


def _checked_calibration(model: PreTrainedModel, tokens: Tensor | None) -> Tensor:
    if tokens is None:
        raise SparsityError("the method wanda needs calibration text; give some, or use magnitude")
    if tokens.ndim != 2 or not tokens.numel() or tokens.dtype != torch.int64:
        raise SparsityError(
            f"calibration must be int64 token ids [samples, length], got {tokens.dtype} "
            f"{list(tokens.shape)}"
        )
    size = model.get_input_embeddings().num_embeddings
    if not 0 <= int(tokens.min()) <= int(tokens.max()) < size:
        raise SparsityError(
            f"calibration has token ids up to {int(tokens.max())}, the model's vocabulary has "
            f"{size}; use the model's own tokenizer"
        )
    return tokens
