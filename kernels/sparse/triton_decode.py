"""Triton functions that turn bitmap bytes and packed values into dense elements."""

import triton
import triton.language as tl


@triton.jit
def count_byte(byte):
    """Set bits of each uint32 in 0..255, int32: eight nibbles, summed by a multiplication."""
    nibbles = ((byte * 0x08040201) >> 3) & 0x11111111
    return ((nibbles * 0x11111111) >> 28).to(tl.int32)


@triton.jit
def decode_bytes(values_ptr, first, byte):
    """The eight elements of each bitmap byte, ``[..., 2, 2, 2]`` in the order of their columns.

    Args:
        values_ptr: packed values.
        first: int32, index of the value of each byte's first set bit.
        byte: uint32 in 0..255.
    """
    pointers = values_ptr + first
    v0, pointers = _take(pointers, byte, 0)
    v1, pointers = _take(pointers, byte, 1)
    v2, pointers = _take(pointers, byte, 2)
    v3, pointers = _take(pointers, byte, 3)
    v4, pointers = _take(pointers, byte, 4)
    v5, pointers = _take(pointers, byte, 5)
    v6, pointers = _take(pointers, byte, 6)
    v7, pointers = _take(pointers, byte, 7)
    even = tl.join(tl.join(v0, v4), tl.join(v2, v6))
    odd = tl.join(tl.join(v1, v5), tl.join(v3, v7))
    return tl.join(even, odd)


@triton.jit
def _take(pointers, byte, bit: tl.constexpr):
    """One element, and where the next value lies.

    The bit becomes the sign, which one comparison tests and one arithmetic shift counts.
    """
    sign = (byte << (31 - bit)).to(tl.int32, bitcast=True)
    return tl.load(pointers, mask=sign < 0, other=0), pointers - (sign >> 31)
