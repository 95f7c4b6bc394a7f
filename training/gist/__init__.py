"""Training gist adapters (arXiv 2304.08467): two passes over a frozen model, or one masked one."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import GistTrainingConfig


def train_gist(
    config: "GistTrainingConfig | str | Path",
    *,
    resume: bool = False,
    start_from: str | Path | None = None,
) -> Path:
    """See `run.train_gist`, which this imports when called: the Trainer takes seconds to import."""
    from .run import train_gist as run

    return run(config, resume=resume, start_from=start_from)
