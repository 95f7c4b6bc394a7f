"""Parameter-efficient sparsity (arXiv 2205.11005): fine-tune and prune at once."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import PSTConfig


def train_pst(config: "PSTConfig | str | Path", *, resume: bool = False) -> Path:
    """See `run.train_pst`, which this imports when called: the Trainer takes seconds to import."""
    from .run import train_pst as run

    return run(config, resume=resume)
