"""Byte sizes as people write them."""

import re

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def parse_size(text: str) -> int:
    """Bytes from `2GiB`, `512 MB`, `1.5g` or `1000000`.

    Raises ValueError for anything else, and for sizes under one byte.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is no size; write it as 2GiB, 512MiB or a number of bytes")
    size = int(float(match[1]) * _UNITS[match[2]])
    if size < 1:
        raise ValueError(f"a size of {text!r} is less than one byte")
    return size
