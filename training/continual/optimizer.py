"""AdamW, or Muon for the matrices inside the blocks and AdamW for the rest."""

from typing import Any, Literal

import torch
from torch import nn

OptimizerName = Literal["adamw", "muon"]


def make_optimizers(
    model: nn.Module, name: OptimizerName, *, weight_decay: float, betas: tuple[float, float]
) -> list[torch.optim.Optimizer]:
    """Optimizers of all trained parameters; the learning rate is set by the loop at every step.

    Weight decay acts on the weights inside the blocks, not on embeddings, the output head, norms
    and biases. With "muon" the matrices among them move by Muon (Jordan et al. 2024), at the scale
    of AdamW's updates, so that one learning rate serves both optimizers.
    """
    inner, plain = _groups(model)
    adamw: list[dict[str, Any]] = [{"params": plain, "weight_decay": 0.0}]
    if name == "adamw":
        adamw.append({"params": inner, "weight_decay": weight_decay})
        return [torch.optim.AdamW(adamw, betas=betas)]
    if stacks := [parameter for parameter in inner if parameter.ndim > 2]:
        adamw.append({"params": stacks, "weight_decay": weight_decay})
    matrices = [parameter for parameter in inner if parameter.ndim == 2]
    muon = torch.optim.Muon(matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(adamw, betas=betas)]


def _groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weights inside the blocks; embeddings, head and vectors."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    head = getattr(model, "get_output_embeddings", lambda: None)()
    outer = {
        id(parameter)
        for module in (*tables, *([] if head is None else [head]))
        for parameter in module.parameters()
    }
    inner: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            within = parameter.ndim >= 2 and id(parameter) not in outer
            (inner if within else plain).append(parameter)
    return inner, plain
