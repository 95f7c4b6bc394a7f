"""The device that is measured, and what of the cases fits it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class BenchDevice:
    """Where tensors go, and how large inputs must be together so that no cache holds them.

    Attributes:
        device: of all tensors.
        dtype: of weights, activations and caches.
        l2_bytes: of the device's last cache.
        memory_bytes: that measurements may use.
        tiny: smallest sizes only, to try the script itself.
    """

    device: torch.device
    dtype: torch.dtype
    l2_bytes: int
    memory_bytes: int
    tiny: bool = False

    @classmethod
    def cuda(cls) -> BenchDevice:
        """The current CUDA device."""
        free, _ = torch.cuda.mem_get_info()
        l2_bytes = getattr(torch.cuda.get_device_properties(), "L2_cache_size", 0) or 64 * 2**20
        return cls(torch.device("cuda"), torch.bfloat16, l2_bytes, int(free * 0.8))

    @classmethod
    def dry_run(cls) -> BenchDevice:
        """The CPU in float32 (Triton's interpreter has no bfloat16 products)."""
        return cls(torch.device("cpu"), torch.float32, 1024, 2**30, tiny=True)

    def randn(self, *size: int) -> Tensor:
        """Normal random numbers."""
        return torch.randn(*size, device=self.device, dtype=self.dtype)

    def copies(self, input_bytes: float, most: int = 64) -> int:
        """How many sets of inputs to rotate, so that twice the L2 lies between two uses of one."""
        wanted = math.ceil(2 * self.l2_bytes / max(input_bytes, 1)) + 1
        fitting = int(self.memory_bytes // max(input_bytes, 1))
        return max(1, min(wanted, most, fitting))

    def facts(self) -> dict[str, Any]:
        """What names the hardware in a result file."""
        if self.device.type != "cuda":
            return {"name": "cpu", "l2_bytes": self.l2_bytes}
        properties = torch.cuda.get_device_properties()
        return {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": self.l2_bytes,
            "cuda": torch.version.cuda,
        }
