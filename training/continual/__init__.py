"""Continual pre-training (arXiv 2403.08763), and pre-training from scratch, of any small model."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import ContinualConfig


def train_continual(
    config: "ContinualConfig | str | Path",
    *,
    resume: bool = False,
    start_from: str | Path | None = None,
) -> Path:
    """See `run.train_continual`, which this imports when called: transformers takes seconds."""
    from .run import train_continual as run

    return run(config, resume=resume, start_from=start_from)
