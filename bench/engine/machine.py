"""What the machine reaches: the bandwidth and the matrix rate that steps are put to."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from ...server.engine.openmp import release_helpers
from ..gpu.floor import Ceilings
from ..gpu.timing import Call, CudaTimer, HostTimer, Timer

_BYTES = {"cpu": 2**28, "cuda": 2**30}
_SIZE = {"cpu": 1536, "cuda": 8192}
_REPEATS = 3


@dataclass(frozen=True)
class Machine:
    """Measures one device.

    Attributes:
        device: "cpu" or "cuda".
        dtype: of the matrix product.
        num_bytes: of the array that is read and copied; more than caches hold.
        size: of the square matrices.
    """

    device: torch.device
    dtype: torch.dtype
    num_bytes: int
    size: int

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype) -> Machine:
        """With the sizes that suit the kind of device."""
        return cls(device, dtype, _BYTES[device.type], _SIZE[device.type])

    def ceilings(self) -> Ceilings:
        """Bytes and operations a second; the bandwidth is the better one of reading (a sum) and of
        copying (bytes read and written)."""
        found = Ceilings(self._bandwidth(), self._matmul_rate())
        release_helpers()  # or the engine's would sleep between their loops
        return found

    def _bandwidth(self) -> float:
        source = torch.ones(self.num_bytes // 4, dtype=torch.float32, device=self.device)
        target = torch.empty_like(source)
        reading = self.num_bytes / self._seconds(source.sum)
        copying = 2 * self.num_bytes / self._seconds(lambda: target.copy_(source))
        return max(reading, copying)

    def _matmul_rate(self) -> float:
        left, right = (
            torch.randn(self.size, self.size, device=self.device).to(self.dtype) for _ in range(2)
        )
        return 2 * self.size**3 / self._seconds(lambda: left @ right)

    def _seconds(self, call: Call) -> float:
        timer: Timer = HostTimer(_REPEATS) if self.device.type == "cpu" else CudaTimer()
        call()
        return statistics.median(timer([call]).samples_ms) / 1e3
