"""The tensors that captured decode steps read: always at the same place, refilled every step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...kernels.attention import AttentionMetadata
from .scheduler_output import SchedulerOutput
from .transfer import host_buffer, lay_out


@dataclass(frozen=True, slots=True)
class DecodeShape:
    """What bounds a decode step."""

    max_num_seqs: int
    max_blocks: int
    """Most blocks of a sequence."""
    block_size: int
    scratch_block: int
    """A block of the pool that no sequence ever owns, for rows without a sequence."""

    @property
    def max_seq_len(self) -> int:
        return self.max_blocks * self.block_size


class DecodeInputs:
    """Static tensors for steps of one new token a sequence.

    A step of S sequences is padded to a size B: the rows from S on compute token 0 at slot 0 of a
    sequence of one slot, which lies in the scratch block, so that they neither read nor write what
    belongs to anyone.

    Args:
        shape: bounds of all steps.
        device: where the tensors lie.
    """

    def __init__(self, shape: DecodeShape, device: torch.device) -> None:
        self.shape = shape
        self._device = device
        rows, width = shape.max_num_seqs, shape.max_blocks
        columns = [((rows,), np.int64)] * 3 + [((rows,), np.int32)]
        *self._columns, self._blocks = lay_out([*columns, ((rows * width,), np.int32)])[0]
        # What a step brings: its columns, then its block table, as wide as its own longest row.
        self._arrived = torch.zeros(self._blocks.end, dtype=torch.uint8, device=device)
        self._token_ids, self._positions, self._slots, self._seq_lens = (
            column.in_tensor(self._arrived) for column in self._columns
        )
        # The operator's strides are captured too, so what it reads has the width of the widest.
        self._block_table = torch.empty(rows, width, dtype=torch.int32, device=device)
        self._starts = torch.arange(rows + 1, dtype=torch.int32, device=device)
        self._block_table.fill_(shape.scratch_block)
        self._slots.fill_(shape.scratch_block * shape.block_size)
        self._seq_lens.fill_(1)

    def fill(self, output: SchedulerOutput, size: int) -> None:
        """Bring a step of at most ``size`` sequences of one token each; one copy to the device.

        Raises:
            ValueError: the step does not fit.
        """
        count, width = output.block_table.shape
        if count > size or width > self.shape.max_blocks:
            raise ValueError(
                f"a step of {count} sequences and {width} blocks was captured for at most {size} "
                f"sequences and {self.shape.max_blocks} blocks"
            )
        end = self._blocks.offset + size * width * self._blocks.dtype.itemsize
        staging = host_buffer(end, self._device)
        self._write(staging.numpy(), output, size)
        self._arrived[:end].copy_(staging, non_blocking=True)
        arrived = self._arrived[self._blocks.offset : end].view(torch.int32).view(size, width)
        self._block_table[:size, :width].copy_(arrived)

    def rows(self, size: int) -> tuple[Tensor, Tensor, AttentionMetadata]:
        """Tokens ``[size]``, positions ``[size]`` and attention's view of the first rows."""
        metadata = AttentionMetadata(
            self._starts[: size + 1],
            self._seq_lens[:size],
            self._block_table[:size],
            self._slots[:size],
            max_query_len=1,
            max_seq_len=self.shape.max_seq_len,
        )
        return self._token_ids[:size], self._positions[:size], metadata

    def _write(self, host: NDArray[np.uint8], output: SchedulerOutput, size: int) -> None:
        count, width = output.block_table.shape
        scratch = self.shape.scratch_block
        padded = (
            (output.token_ids, 0),
            (output.positions, 0),
            (output.slot_mapping, scratch * self.shape.block_size),
            (output.seq_lens, 1),
        )
        for place, (values, padding) in zip(self._columns, padded, strict=True):
            column = place.in_array(host)
            column[:count] = values
            column[count:size] = padding
        table = host[self._blocks.offset :].view(np.int32).reshape(size, width)
        table[:count] = output.block_table
        table[count:] = scratch
