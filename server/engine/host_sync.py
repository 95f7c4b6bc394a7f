"""Finds what makes the host wait for the device in a forward, without a device to wait for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Their outcome (a number, or a shape) lies on the host, so they wait for the device to compute it.
_WAITING = frozenset(
    {
        "aten::_local_scalar_dense",
        "aten::bincount",
        "aten::equal",
        "aten::is_nonzero",
        "aten::item",
        "aten::masked_select",
        "aten::nonzero",
        "aten::repeat_interleave.Tensor",
        "aten::unique_consecutive",
        "aten::unique_dim",
        "aten::_unique2",
        "transformers::grouped_mm_fallback",
    }
)
_INDEXING = frozenset({"aten::index.Tensor", "aten::index_put", "aten::index_put_"})
_COPIES = frozenset({"aten::_to_copy", "aten::copy_", "aten::to.device", "aten::to.dtype_layout"})


def find_host_sync(forward: Callable[[], object]) -> str | None:
    """The first operation of ``forward`` for which the host must wait, by name, or None.

    Such a forward cannot be captured in a CUDA graph. Runs it once; other threads are not watched.
    """
    watch = _Watch()
    with watch:
        forward()
    return watch.found


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: str | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if self.found is None and _waits(func.name(), args, result):
            self.found = func.name()
        return result


def _waits(name: str, args: tuple[Any, ...], result: object) -> bool:
    if name in _WAITING:
        return True
    if name in _INDEXING:  # by a mask: how many rows are meant must be known
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    if name in _COPIES:
        return _moves_between_devices(args, result)
    if name == "aten::_grouped_mm":  # its kernel is for bfloat16 alone; others read the offsets
        return args[0].device.type == "cuda" and args[0].dtype != torch.bfloat16
    return False


def _moves_between_devices(args: tuple[Any, ...], result: object) -> bool:
    tensors = [value for value in (*args, result) if isinstance(value, Tensor)]
    return len({tensor.device.type for tensor in tensors}) > 1
