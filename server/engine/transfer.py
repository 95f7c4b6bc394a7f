"""Carries small arrays between host and device; no copy here makes the host wait, but one.

A step's arrays travel together: one pinned buffer, one copy. The buffer comes from torch's caching
host allocator, which hands it out again only once the device has read it, so the next step may be
prepared at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

# Of every array in a packed buffer, in bytes: kernels may then load 16 bytes at once.
_ALIGNMENT = 16
_DTYPES = {
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.int64): torch.int64,
}


@dataclass(frozen=True, slots=True)
class Place:
    """An array's bytes in a packed buffer."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def end(self) -> int:
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    def in_array(self, buffer: NDArray[np.uint8]) -> Array:
        """The array, as a view of a packed buffer."""
        return buffer[self.offset : self.end].view(self.dtype).reshape(self.shape)

    def in_tensor(self, buffer: Tensor) -> Tensor:
        """The same of a uint8 tensor."""
        return buffer[self.offset : self.end].view(_DTYPES[self.dtype]).view(self.shape)


def lay_out(arrays: Sequence[tuple[tuple[int, ...], Any]]) -> tuple[list[Place], int]:
    """Where arrays of these (shape, dtype) lie in a packed buffer, and its size in bytes.

    Raises:
        KeyError: a dtype that is not int32, int64, float32 or float64.
    """
    places: list[Place] = []
    end = 0
    for shape, kind in arrays:
        dtype = np.dtype(kind)
        _DTYPES[dtype]  # raises here, not on the device
        place = Place(-(-end // _ALIGNMENT) * _ALIGNMENT, shape, dtype)
        places.append(place)
        end = place.end
    return places, end


def host_buffer(num_bytes: int, device: torch.device) -> Tensor:
    """uint8 ``[num_bytes]`` on the host, from which ``device`` can read by itself."""
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")


def upload(arrays: Sequence[Array], device: torch.device) -> list[Tensor]:
    """The arrays on ``device``, by one copy that the host does not wait for.

    For the CPU the tensors share the arrays' memory.
    """
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    return _upload_packed(arrays, device)


def _upload_packed(arrays: Sequence[Array], device: torch.device) -> list[Tensor]:
    places, num_bytes = lay_out([(array.shape, array.dtype) for array in arrays])
    staging = host_buffer(num_bytes, device)
    host = staging.numpy()
    for array, place in zip(arrays, places, strict=True):
        place.in_array(host)[...] = array
    packed = staging.to(device, non_blocking=True)
    return [place.in_tensor(packed) for place in places]


def download(tensors: Sequence[Tensor]) -> list[Array]:
    """The tensors' values on the host; waits once for all of them (nothing to wait for on a CPU).

    Args:
        tensors: at least one, all on one device.
    """
    if tensors[0].device.type != "cuda":
        return [tensor.cpu().numpy() for tensor in tensors]
    hosts = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
    for host, tensor in zip(hosts, tensors, strict=True):
        host.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(tensors[0].device))
    copied.synchronize()
    return [host.numpy() for host in hosts]
