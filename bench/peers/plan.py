"""What every server is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# transformers' caches are made of pages of this many tokens.
PAGE_TOKENS = 256


@dataclass(frozen=True)
class Plan:
    """One model, and room for the same requests at the same time.

    Attributes:
        folder: of the model.
        gguf: the same model for llama.cpp.
        work: folder for what a server writes.
        dtype: of weights and KV cache, by torch's name.
        kv_bytes_per_token: of the KV cache in that format.
        threads: that compute.
        slots: requests at a time.
        slot_tokens: longest prompt plus answer, whole pages.
    """

    folder: Path
    gguf: Path
    work: Path
    dtype: str
    kv_bytes_per_token: int
    threads: int
    slots: int
    slot_tokens: int


def whole_pages(tokens: int) -> int:
    """`tokens`, rounded up to whole pages."""
    return -(-tokens // PAGE_TOKENS) * PAGE_TOKENS
