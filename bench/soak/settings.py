"""What a soak is to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...server.demo import EMBEDDED_MODEL


@dataclass(frozen=True, kw_only=True)
class SoakSettings:
    """Sizes of a soak; times in seconds.

    model: folder of a model with a gist adapter.
    seconds: how long load is put on the server, quiet phases and restarts included.
    workers: clients that send one request after the other.
    calm_share: share of the time in which the server is not restarted, so that its memory can be
        watched.
    shutdown_timeout: what a server that is told to end gives to running requests.
    """

    model: Path = EMBEDDED_MODEL
    seconds: float = 1200.0
    workers: int = 12
    seed: int = 0
    calm_share: float = 0.4
    shutdown_timeout: float = 3.0
    max_num_seqs: int = 8
    max_queue: int = 16

    def arguments(self, store: Path) -> list[str]:
        """Options of `gistserve serve`."""
        return [
            *("--model", f"soak={self.model}", "--store", str(store), "--dtype", "float32"),
            *("--max-num-seqs", str(self.max_num_seqs), "--max-queue", str(self.max_queue)),
            *("--shutdown-timeout", str(self.shutdown_timeout), "--device", "cpu"),
        ]
