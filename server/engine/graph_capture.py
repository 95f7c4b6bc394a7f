"""CUDA graphs of torch, as the way to record a decode step."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .decode_graphs import Capture


def capture_for(device: torch.device) -> Capture | None:
    """How steps are captured on a device, or None where they cannot be."""
    return CudaCapture(device) if device.type == "cuda" else None


class CudaCapture:
    """Records work on a device as CUDA graphs, which share one memory pool.

    What a graph computed is lost when another one of the same ``CudaCapture`` runs, unless it was
    copied to tensors made outside.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
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
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                run()
        return graph.replay
