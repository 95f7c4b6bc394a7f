"""Captures a model's decode steps, or says why they cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from .decode_graphs import DecodeForward, DecodeGraphs
from .decode_inputs import DecodeInputs, DecodeShape
from .graph_capture import CaptureFactory
from .host_sync import find_host_sync


class DecodeCapturer:
    """Makes ``DecodeGraphs``.

    Args:
        forward: computes a decode step over the pool of the moment.
        start_capture: makes a way to record steps.
        device: where the model lies.
        block_size: slots in a block.
        max_blocks: most blocks of a sequence.
    """

    def __init__(
        self,
        forward: DecodeForward,
        start_capture: CaptureFactory,
        device: torch.device,
        block_size: int,
        max_blocks: int,
    ) -> None:
        self._forward = forward
        self._start_capture = start_capture
        self._device = device
        self._block_size = block_size
        self._max_blocks = max_blocks

    @torch.inference_mode()
    def obstacle(self, plain_forward: DecodeForward) -> str | None:
        """Why decode steps cannot be captured, or None. Writes to the first block.

        Args:
            plain_forward: the forward that is captured, but nothing in it compiled: that is skipped
                for good once it was met while operations are watched.
        """
        inputs = self._inputs(1, scratch_block=0)
        waits = find_host_sync(lambda: plain_forward(*inputs.rows(1)))
        if waits is not None:
            return f"its forward waits for the device ({waits})"
        try:
            self.capture([1])
        except RuntimeError as error:
            return str(error)
        return None

    @torch.inference_mode()
    def capture(
        self,
        sizes: Sequence[int],
        scratch_block: int = 0,
        progress: Callable[[Sequence[int]], Iterable[int]] = iter,
    ) -> DecodeGraphs:
        """Decode steps of these batch sizes, ascending, padded with rows in ``scratch_block``.

        They share memory; ``progress`` wraps the sizes, largest first, while they are captured.

        Raises:
            RuntimeError: a step cannot be captured.
        """
        inputs = self._inputs(sizes[-1], scratch_block)
        return DecodeGraphs(self._forward, inputs, sizes, self._start_capture(), progress)

    def _inputs(self, max_num_seqs: int, scratch_block: int) -> DecodeInputs:
        shape = DecodeShape(max_num_seqs, self._max_blocks, self._block_size, scratch_block)
        return DecodeInputs(shape, self._device)
