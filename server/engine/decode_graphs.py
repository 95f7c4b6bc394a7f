"""Decode steps that replay what was captured once for their batch size.

Through transformers' modules a forward costs milliseconds of host time, which a decode step of a
few tokens cannot hide. A CUDA graph launches all of it at once, but only ever at the same shapes
and addresses: hence static inputs, and batches padded to a ladder of sizes.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ...kernels.attention import AttentionMetadata
from .decode_inputs import DecodeInputs
from .scheduler_output import SchedulerOutput

# A larger batch keeps the device busy long enough to hide the host's time.
MAX_CAPTURED_SEQS = 512

DecodeForward = Callable[[Tensor, Tensor, AttentionMetadata], Tensor]
"""From tokens ``[B]``, positions ``[B]`` and metadata to logits ``[B, V]``."""


class Capture(Protocol):
    """Records what ``run`` does to tensors, and returns what does it again at the same ones."""

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]: ...


def batch_sizes(max_num_seqs: int) -> list[int]:
    """The ladder of captured sizes, ascending: 1, 2, 4, 8, 16, 24 … up to ``max_num_seqs``.

    Steps of 8 keep the padding of a large batch small; beyond 256 they are 16.
    """
    most = min(max_num_seqs, MAX_CAPTURED_SEQS)
    ladder = [1, 2, 4, *range(8, 256, 8), *range(256, MAX_CAPTURED_SEQS + 1, 16)]
    return [size for size in ladder if size < most] + [most]


class DecodeGraphs:
    """Captured decode steps of several batch sizes.

    Args:
        forward: computes a decode step. It must do the same work whatever the tensors hold.
        inputs: the tensors that it is captured on.
        sizes: batch sizes to capture, ascending.
        capture: how to record a step.
        progress: wraps the sizes while they are captured, to show a bar.

    Raises:
        Exception: what ``forward`` or ``capture`` raises, where a step cannot be captured.
    """

    def __init__(
        self,
        forward: DecodeForward,
        inputs: DecodeInputs,
        sizes: Sequence[int],
        capture: Capture,
        progress: Callable[[Sequence[int]], Iterable[int]] = iter,
    ) -> None:
        self.sizes = list(sizes)
        self._forward = forward
        self._inputs = inputs
        self._replay: dict[int, Callable[[], None]] = {}
        self._logits = self._empty_logits()
        for size in progress(self.sizes[::-1]):  # the largest takes memory that the others reuse
            self._replay[size] = capture(self._step(size))

    def takes(self, output: SchedulerOutput) -> bool:
        """Whether a step is of the captured kind: each sequence computes one token and draws."""
        count = len(output.sequences)
        return output.max_query_len == 1 and count == len(output.logits_indices) <= self.sizes[-1]

    def run(self, output: SchedulerOutput) -> Tensor:
        """Compute a step that :meth:`takes` accepts.

        Returns:
            Logits ``[S, V]``, valid until the next run.
        """
        count = len(output.sequences)
        size = self.sizes[bisect.bisect_left(self.sizes, count)]
        self._inputs.fill(output, size)
        self._replay[size]()
        return self._logits[:count]

    def _empty_logits(self) -> Tensor:
        """What all sizes write their logits to: kept apart, each would take memory of its own."""
        one = self._forward(*self._inputs.rows(1))
        return torch.empty(self.sizes[-1], one.shape[-1], dtype=one.dtype, device=one.device)

    def _step(self, size: int) -> Callable[[], None]:
        def step() -> None:
            self._logits[:size].copy_(self._forward(*self._inputs.rows(size)))

        return step
