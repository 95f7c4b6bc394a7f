"""Logits where an answer is asked for."""

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor


def task_logits(model: torch.nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits [R, T, V] in the columns of a batch's labels; `inputs` is the batch without those.

    A causal model computes its head only there, where it is able to.
    """
    columns = inputs.get("logits_to_keep")
    if columns is None or _keeps(model):
        logits: Tensor = model(**inputs).logits
        return logits
    rest = {name: tensor for name, tensor in inputs.items() if name != "logits_to_keep"}
    return model(**rest).logits[:, columns]


def _keeps(model: torch.nn.Module) -> bool:
    inner = getattr(model, "module", model)  # of one that several processes share
    return "logits_to_keep" in inspect.signature(inner.forward).parameters
