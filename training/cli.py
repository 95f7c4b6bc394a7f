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
    start_from: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Begin a new run with this gist adapter's values."
        ),
    ] = None,
) -> None:
    """Train a gist adapter for a causal language model."""
    from ..compress.errors import GistError
    from .config import ConfigError
    from .gist import train_gist
    from .gist.data import DataError

    try:
        folder = train_gist(config, resume=resume, start_from=start_from)
    except (ConfigError, DataError, GistError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"Wrote {folder}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option(file_okay=False, help="Folder for the model.")],
    stage: Annotated[Stage, typer.Option(help="Which part of the recipe to run.")] = Stage.all,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data and training.")] = 0,
) -> None:
    """Train the embedded model from scratch on data that it generates itself."""
    from .demo import train_demo

    try:
        folder = train_demo(output, stage=stage.value, seed=seed)
    except ValueError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"Wrote {folder}")
