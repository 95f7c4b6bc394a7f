"""What a comparison is told."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PeersSettings:
    """What is compared, and how.

    Attributes:
        model: folder of a model; None for random weights of `shape`.
        gguf: the same model for llama.cpp; None to write it.
        dtype: `float32` or `bfloat16`, of weights and KV caches.
        transformers, llama_server: commands that start the peers; None to look for them.
        concurrency: requests at a time, ascending.
        requests: of every server and load in a round, at least; no fewer than twice the load.
        input_tokens, output_tokens: exact lengths of all prompts and answers.
        threads: that each server computes with.
    """

    shape: str = "135m"
    model: Path | None = None
    gguf: Path | None = None
    dtype: str = "float32"
    transformers: str | None = None
    llama_server: str | None = None
    concurrency: Sequence[int] = (1, 8, 32)
    requests: int = 8
    rounds: int = 5
    input_tokens: int = 128
    output_tokens: int = 64
    threads: int = 1
    seed: int = 0
    timeout: float = 3600.0

    def requests_at(self, concurrency: int) -> int:
        """Requests of a measurement with so many at a time."""
        return max(self.requests, 2 * concurrency)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
