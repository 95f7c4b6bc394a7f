"""Continual pre-training (arXiv 2403.08763), and pre-training from scratch, of any small model."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import ConfigError

if TYPE_CHECKING:
    from .config import ContinualConfig


def train_continual(
    config: "ContinualConfig | str | Path",
    *,
    resume: bool = False,
    start_from: str | Path | None = None,
) -> Path:
    """See `run.train_continual`, which this imports when called: transformers takes seconds."""
    if find_spec("accelerate") is None:
        raise ConfigError("training needs accelerate: pip install 'gistserve[train]'")
    from .run import train_continual as run

    return run(config, resume=resume, start_from=start_from)
