"""The peak of live tensor bytes in a piece of a program, on any device.

On a CPU torch keeps no such count. `LiveBytes` sees every operator that torch dispatches, forward,
backward and optimizer, and counts the storages that operators return from their making until they
are freed: parameters, gradients, optimizer state, what autograd saves, and temporaries. What a
single operator allocates and frees inside itself is not seen.
"""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts bytes of live storages while it is entered.

    Attributes:
        held: bytes of the tensors it was given, which exist already.
        peak: the most bytes alive at once, `held` included.
    """

    def __init__(self, existing: Iterable[Tensor]) -> None:
        super().__init__()
        self._known: set[int] = set()
        self._live = 0
        for tensor in existing:
            self._add(tensor)
        self.held = self._live
        self.peak = self._live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        self.peak = max(self.peak, self._live)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known and tensor.device.type != "meta":
            self._known.add(key)
            self._live += size
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


def training_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Parameters, their gradients, buffers and the optimizer's state."""
    parameters = list(model.parameters())
    gradients = [p.grad for p in parameters if p.grad is not None]
    state = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
    return [*parameters, *gradients, *model.buffers(), *state]
