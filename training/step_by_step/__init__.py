"""Distilling step-by-step (arXiv 2305.02301): labels and a teacher's rationales as two tasks."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import StepByStepConfig


def train_step_by_step(config: "StepByStepConfig | str | Path", *, resume: bool = False) -> Path:
    """See `run.train_step_by_step`, which this imports when called: the Trainer takes seconds."""
    from .run import train_step_by_step as run

    return run(config, resume=resume)
