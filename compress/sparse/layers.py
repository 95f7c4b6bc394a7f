"""The linear layers of a model that can be made sparse."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ...kernels.sparse import SparseLinear
from ..errors import SparsityError

# Small layers that choose an expert: an error there sends a token through the wrong weights.
_ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})


def linear_size(module: nn.Module) -> tuple[int, int]:
    """Output and input features of a linear layer; `Conv1D` is GPT-2's, its weight transposed."""
    if isinstance(module, Conv1D):
        return module.nf, module.nx
    assert isinstance(module, nn.Linear | SparseLinear)
    return module.out_features, module.in_features


def as_matrix(module: nn.Module, tensor: Tensor) -> Tensor:
    """What has the shape of the layer's weight as `[out_features, in_features]`, in its memory."""
    return tensor.T if isinstance(module, Conv1D) else tensor


def weight_matrix(module: nn.Module) -> Tensor:
    """The weight as `[out_features, in_features]`, in its memory, without gradient."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return as_matrix(module, weight.detach())


def decoder_layers(model: PreTrainedModel) -> tuple[str, Sequence[nn.Module]]:
    """Name and members of the list of repeated layers.

    Raises SparsityError for encoder-decoder models and those without such a list.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise SparsityError(
            f"{type(model).__name__} is an encoder-decoder model; only decoder-only language "
            "models can be made sparse"
        )
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(map(is_dense_linear, module.modules()))
    }
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if not outer:
        raise SparsityError(
            f"{type(model).__name__} has no list of layers with linear layers in them; nothing "
            "can be made sparse"
        )
    name = max(outer, key=lambda name: len(lists[name]))
    return name, list(lists[name])


def prunable_layers(
    model: PreTrainedModel, only: Iterable[str] = (), skip: Iterable[str] = ()
) -> dict[str, nn.Module]:
    """Name -> module of the linear layers to make sparse.

    By default all inside the decoder's layers but experts' routers; embeddings and output head
    stay dense. `only` and `skip` choose among all untied linear layers of the model by full names,
    by endings (`mlp.down_proj`) or by what contains them (`model.layers.0`).

    Raises SparsityError for a choice that matches nothing, and where nothing is left.
    """
    prefix, _ = decoder_layers(model)
    candidates = {
        name: module
        for name, module in model.named_modules()
        if is_dense_linear(module) and not is_tied(model, name)
    }
    only, skip = list(only), list(skip)
    for choice in [*only, *skip]:
        if not any(_matches(name, choice) for name in candidates):
            endings = sorted({name.rpartition(".")[2] for name in candidates})
            raise SparsityError(
                f"{choice!r} matches no linear layer of {type(model).__name__}; their names end "
                f"in {', '.join(endings)}"
            )
    if only:
        names = [name for name in candidates if any(_matches(name, choice) for choice in only)]
    else:
        names = [name for name in candidates if _is_default(name, prefix)]
    names = [name for name in names if not any(_matches(name, choice) for choice in skip)]
    if not names:
        raise SparsityError(
            f"no linear layer of {type(model).__name__} is left to make sparse; choose other "
            "modules"
        )
    return {name: candidates[name] for name in names}


def is_dense_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer as torch or GPT-2 has it."""
    # Exactly these: a subclass computes something else with its weight.
    return type(module) in (nn.Linear, Conv1D)


def is_tied(model: PreTrainedModel, name: str) -> bool:
    """Whether the weight of the module is shared with another one (an output head often is)."""
    tied = model.all_tied_weights_keys
    return f"{name}.weight" in tied or f"{name}.weight" in tied.values()


def _is_default(name: str, prefix: str) -> bool:
    return name.startswith(f"{prefix}.") and name.rpartition(".")[2] not in _ROUTERS


def _matches(name: str, choice: str) -> bool:
    return name == choice or name.endswith(f".{choice}") or name.startswith(f"{choice}.")


def sparse_modules(model: nn.Module) -> dict[str, SparseLinear]:
    """Name -> module of every sparse linear layer of `model`."""
    return {name: m for name, m in model.named_modules() if isinstance(m, SparseLinear)}


def dense_matrices(model: PreTrainedModel, sparse: Iterable[str]) -> list[str]:
    """Modules that hold a matrix (embeddings, heads, experts) and are not in `sparse`."""
    left = dict.fromkeys(
        name.rpartition(".")[0] for name, tensor in model.named_parameters() if tensor.ndim >= 2
    )
    return sorted(left.keys() - set(sparse))


def zero(module: nn.Module, keep: Tensor) -> None:
    """Set a layer's weight to zero, in place, where `keep` `[out, in]` is false."""
    with torch.no_grad():
        weight_matrix(module).masked_fill_(~keep, 0)
