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
def decode_words(values_ptr, start, word):
    """The elements of rows of bitmap words, ``[rows, 32 * words]``.

    Args:
        values_ptr: packed values.
        start: int32 ``[rows]``, index of the value of each row's first set bit.
        word: uint32 ``[rows, words]``, the least significant bit first.
    """
    ROWS: tl.constexpr = word.shape[0]
    WORDS: tl.constexpr = word.shape[1]
    counts = count_bits(word)
    first = start[:, None] + tl.cumsum(counts, 1) - counts
    # One axis, so that Triton can only choose one layout for the words and for every load.
    word = tl.reshape(word, [ROWS * WORDS])
    pointers = values_ptr + tl.reshape(first, [ROWS * WORDS])
    byte0, pointers = _decode_byte(pointers, word, 0)
    byte1, pointers = _decode_byte(pointers, word, 8)
    byte2, pointers = _decode_byte(pointers, word, 16)
    byte3, pointers = _decode_byte(pointers, word, 24)
    # Joined axes come last, but bytes are slower than the bits in them.
    joined = tl.join(tl.join(byte0, byte2), tl.join(byte1, byte3))
    return tl.reshape(tl.permute(joined, (0, 4, 5, 1, 2, 3)), [ROWS, WORDS * 32])


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
