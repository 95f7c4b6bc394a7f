"""Triton functions that turn bitmap words and packed values into dense elements."""

import triton
import triton.language as tl


@triton.jit
def count_bits(word):
    """Set bits of each uint32, int32: pairs, nibbles, bytes, then a sum by multiplication."""
    pairs = word - ((word >> 1) & 0x55555555)
    nibbles = (pairs & 0x33333333) + ((pairs >> 2) & 0x33333333)
    return ((((nibbles + (nibbles >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def decode_words(values_ptr, first, word):
    """The 32 elements of each bitmap word, ``[*word.shape, 2, 2, 2, 2, 2]`` in column order.

    Args:
        values_ptr: packed values.
        first: int32, index of the value of each word's first set bit.
        word: uint32, the least significant bit first.
    """
    pointers = values_ptr + first
    byte0, pointers = _decode_byte(pointers, word, 0)
    byte1, pointers = _decode_byte(pointers, word, 8)
    byte2, pointers = _decode_byte(pointers, word, 16)
    byte3, pointers = _decode_byte(pointers, word, 24)
    # Joined axes come last, but bytes are slower than the bits in them.
    joined = tl.join(tl.join(byte0, byte2), tl.join(byte1, byte3))
    return tl.permute(joined, (0, 1, 5, 6, 2, 3, 4))


@triton.jit
def _decode_byte(pointers, word, bit: tl.constexpr):
    v0, pointers = _take(pointers, word, bit)
    v1, pointers = _take(pointers, word, bit + 1)
    v2, pointers = _take(pointers, word, bit + 2)
    v3, pointers = _take(pointers, word, bit + 3)
    v4, pointers = _take(pointers, word, bit + 4)
    v5, pointers = _take(pointers, word, bit + 5)
    v6, pointers = _take(pointers, word, bit + 6)
    v7, pointers = _take(pointers, word, bit + 7)
    even = tl.join(tl.join(v0, v4), tl.join(v2, v6))
    odd = tl.join(tl.join(v1, v5), tl.join(v3, v7))
    return tl.join(even, odd), pointers


@triton.jit
def _take(pointers, word, bit: tl.constexpr):
    """One element, and where the next value lies.

    The bit becomes the sign, which one comparison tests and one arithmetic shift counts.
    """
    sign = (word << (31 - bit)).to(tl.int32, bitcast=True)
    return tl.load(pointers, mask=sign < 0, other=0), pointers - (sign >> 31)
