"""Writes sparse checkpoints."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ...kernels.sparse import BitmapWeight, SparseFormatError, SparseLinear
from ..errors import SparsityError
from .card import model_card
from .config import SparseConfig
from .layers import as_matrix, dense_matrices, is_dense_linear, is_tied, weight_matrix
from .measure import measure
from .output_folder import new_folder
from .sparsify import SparseRecipe

MANIFEST_NAME = "sparsity.json"
CARD_NAME = "README.md"


def save_sparse(
    model: PreTrainedModel,
    directory: str | Path,
    recipe: SparseRecipe,
    *,
    masks: Mapping[str, Tensor] | None = None,
    tokenizer: Any = None,
    manifest: Mapping[str, Any] | None = None,
    max_shard_size: str = "50GB",
) -> dict[str, Any]:
    """Write `model` with the modules of `recipe` stored sparse, and return what was measured.

    The folder holds what `save_pretrained` writes, the tokenizer, `sparsity.json` (the returned
    facts) and a model card. It appears complete or not at all. The model stays as it is; no weight
    is pruned here: kept is what is not zero, or what a mask keeps.

    Args:
        directory: to be made; an empty folder is taken as well.
        masks: bool tensors in the shape of the layers' own weights, by module, true where a weight
            is kept; for modules without one, the zeros of the weight decide.
        manifest: more facts (JSON values) about the model's making, for `sparsity.json` and card.

    Raises:
        SparsityError: the folder is in use; a module does not exist, is no linear layer, is tied,
            or its mask does not fit.
        OSError: the disk is full or the folder cannot be made.
    """
    with new_folder(Path(directory)) as folder:
        tensors: dict[str, Tensor] = model.state_dict()
        weights = {n: _encode(model, tensors, n, (masks or {}).get(n)) for n in recipe.modules}
        config = SparseConfig(
            modules={name: weight.nnz for name, weight in weights.items()},
            method=recipe.method,
            sparsity=recipe.sparsity,
            pattern=recipe.pattern,
            dense_modules=dense_matrices(model, weights),
        )
        with _described(model, config):
            model.save_pretrained(folder, state_dict=dict(tensors), max_shard_size=max_shard_size)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        facts = measure(config, weights, tensors, folder) | recipe.details | dict(manifest or {})
        text = json.dumps(facts, indent=2) + "\n"
        (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
        (folder / CARD_NAME).write_text(model_card(facts), encoding="utf-8")
    return facts


def _encode(
    model: PreTrainedModel, tensors: dict[str, Tensor], name: str, mask: Tensor | None
) -> BitmapWeight:
    """Put bitmap and values in the place of the module's weight among `tensors`."""
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise SparsityError(f"{type(model).__name__} has no module {name!r}") from None
    if isinstance(module, SparseLinear):
        bitmap, values = tensors[f"{name}.weight_bitmap"], tensors[f"{name}.weight_values"]
        return BitmapWeight((module.out_features, module.in_features), bitmap, values)
    if not is_dense_linear(module):
        raise SparsityError(f"{name} is a {type(module).__name__}, not a linear layer")
    if is_tied(model, name):
        raise SparsityError(
            f"the weight of {name} is shared with another module and must stay dense; leave it out"
        )
    if mask is not None:
        mask = as_matrix(module, mask)
    try:
        weight = BitmapWeight.from_dense(weight_matrix(module).contiguous(), mask)
    except SparseFormatError as error:
        raise SparsityError(f"{name} cannot be stored sparse: {error}") from error
    del tensors[f"{name}.weight"]
    tensors |= {f"{name}.weight_bitmap": weight.bitmap, f"{name}.weight_values": weight.values}
    return weight


@contextmanager
def _described(model: PreTrainedModel, config: SparseConfig) -> Iterator[None]:
    """`model.config` with our `quantization_config`, for the time of the block."""
    before = vars(model.config).get("quantization_config")
    model.config.quantization_config = config
    try:
        yield
    finally:
        if before is None:
            del model.config.quantization_config
        else:
            model.config.quantization_config = before
