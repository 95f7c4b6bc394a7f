"""`gistserve train`: the trainers' sub-commands. torch is imported only when one of them runs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Train gist adapters, and the embedded demonstration model.",
)


class Stage(StrEnum):
    """Parts of the embedded model's recipe, in their order."""

    tokenizer = "tokenizer"
    base = "base"
    gist = "gist"
    all = "all"


@app.command()
def gist(
    config: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="YAML file; see the README.")
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run's newest checkpoint.")
    ] = False,
) -> None:
    """Train a gist adapter for a causal language model."""
    from .gist import train_gist

    train_gist(config, resume=resume)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(file_okay=False, help="Folder for the model.")],
    stage: Annotated[Stage, typer.Option(help="Which part of the recipe to run.")] = Stage.all,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data and training.")] = 0,
) -> None:
    """Train the embedded model from scratch on data that it generates itself."""
    from .demo import train_demo

    train_demo(output, stage=stage.value, seed=seed)
