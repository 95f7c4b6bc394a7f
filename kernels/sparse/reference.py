"""The oracle of sparse linear layers: float64, one plain step after another."""

from __future__ import annotations

import torch
from torch import Tensor

from .bitmap import BitmapWeight


def reference_sparse_linear(x: Tensor, weight: BitmapWeight, bias: Tensor | None = None) -> Tensor:
    """``x @ W.T + bias`` in float64, from the bits as the format defines them.

    Args:
        x: ``[..., K]``.
        weight: ``[N, K]``.
        bias: ``[N]`` or None.

    Returns:
        float64 ``[..., N]``.
    """
    rows, columns = weight.shape
    shifts = torch.arange(8, device=weight.bitmap.device)
    bits = (weight.bitmap.long().unsqueeze(2) >> shifts) & 1
    kept = bits.view(rows, -1)[:, :columns]
    dense = torch.zeros(rows, columns, dtype=torch.float64, device=kept.device)
    for row, start in enumerate(kept.sum(1).cumsum(0) - kept.sum(1)):
        places = kept[row].nonzero().flatten()
        dense[row, places] = weight.values[start : start + len(places)].double()
    product = x.double() @ dense.t()
    return product if bias is None else product + bias.double()
