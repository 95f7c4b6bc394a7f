"""Masks as packed bits, eight columns a byte, least significant bit first."""

from __future__ import annotations

import torch
from torch import Tensor

# Bit by bit, every byte value as eight bytes of 0 or 1.
_BYTE_BITS = ((torch.arange(256)[:, None] >> torch.arange(8)) & 1).to(torch.uint8)


def pack_bits(mask: Tensor) -> Tensor:
    """Pack ``mask`` ``[N, K]`` bool into uint8 ``[N, ceil(K / 8)]``; bits past ``K`` are 0."""
    rows, columns = mask.shape
    padded = torch.nn.functional.pad(mask, (0, -columns % 8)).contiguous().view(torch.uint8)
    bits = padded.view(rows, -(-columns // 8), 8)
    packed = bits[..., 0].clone()
    for bit in range(1, 8):
        packed |= bits[..., bit] << bit
    return packed


def unpack_bits(packed: Tensor, columns: int) -> Tensor:
    """The bool mask ``[N, columns]`` of ``packed`` uint8 ``[N, >= ceil(columns / 8)]``."""
    # One gather of eight bytes for each packed byte: twice as fast as shifting.
    table = _BYTE_BITS.to(packed.device).view(torch.int64).flatten()
    bits = table.index_select(0, packed.flatten().int()).view(torch.bool)
    return bits.view(packed.shape[0], packed.shape[1] * 8)[:, :columns]


def count_bits(packed: Tensor) -> Tensor:
    """The number of set bits of each byte of ``packed``, uint8, same shape."""
    counts = packed - ((packed >> 1) & 0x55)
    counts = (counts & 0x33) + ((counts >> 2) & 0x33)
    return (counts + (counts >> 4)) & 0x0F
