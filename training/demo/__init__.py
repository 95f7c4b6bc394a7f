"""The embedded model's recipe: data that generates itself, a small base model, a gist adapter."""

from pathlib import Path


def train_demo(output: Path, *, stage: str = "all", seed: int = 0) -> Path:
    """See `recipe.train_demo`, which this imports when called."""
    from .recipe import train_demo as run

    return run(output, stage=stage, seed=seed)
