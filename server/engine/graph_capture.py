"""CUDA graphs of torch, as the way to record decode steps."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from .decode_graphs import Capture

CaptureFactory = Callable[[], Capture]
"""Makes a way to record steps that share memory with each other, and with no others."""


def capture_for(device: torch.device) -> CaptureFactory | None:
    """How steps are captured on a device, or None where they cannot be."""
    return CudaCapture(device).start if device.type == "cuda" else None


class CudaCapture:
    """Records work on a device as CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # one: libraries keep workspaces for each

    def start(self) -> Capture:
        """A way to record graphs that share a new memory pool.

        What a graph computed is lost when another one of the pool runs, unless it was copied to
        tensors made outside.
        """
        return functools.partial(self._capture, torch.cuda.graph_pool_handle())

    def _capture(
        self, pool: torch.cuda._POOL_HANDLE, run: Callable[[], None]
    ) -> Callable[[], None]:
        """Run twice, first to compile kernels and allocate workspaces; returns the graph's replay.

        Raises:
            RuntimeError: the work cannot be captured, because it waits for the device, say.
        """
        graph = torch.cuda.CUDAGraph()
        # The outer block restores the current stream also where the capture breaks off.
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            torch.cuda.synchronize()
            run()
            # Other engines of the process may go on meanwhile: only this thread is restricted.
            with torch.cuda.graph(
                graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                run()
        return graph.replay
