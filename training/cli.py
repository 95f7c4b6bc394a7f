"""`gistserve train`: the trainers' sub-commands. torch is imported only when one of them runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Train gist adapters, sparse models, and the embedded demonstration model.",
)

ConfigFile = Annotated[
    Path, typer.Option(exists=True, dir_okay=False, help="YAML file; see the README.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run from where it was stopped.")
]


@contextmanager
def _errors_told(*kinds: type[Exception]) -> Iterator[None]:
    """One line on stderr and exit status 1 in place of a traceback."""
    try:
        yield
    except kinds as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error


def _tell(text: str) -> None:
    """Print what was done, from one of several processes."""
    if not int(os.environ.get("RANK", "0")):
        typer.echo(text)


class Stage(StrEnum):
    """Parts of the embedded model's recipe, in their order."""

    tokenizer = "tokenizer"
    base = "base"
    gist = "gist"
    all = "all"


@app.command()
def gist(
    config: ConfigFile,
    resume: Resume = False,
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
    from .records import DataError

    with _errors_told(ConfigError, DataError, GistError):
        _tell(f"Wrote {train_gist(config, resume=resume, start_from=start_from)}")


@app.command()
def pst(
    config: ConfigFile,
    resume: Resume = False,
) -> None:
    """Fine-tune a model and make it sparse at once (PST), or by a baseline's way."""
    from ..compress.errors import SparsityError
    from .config import ConfigError
    from .pst import train_pst
    from .records import DataError

    with _errors_told(ConfigError, DataError, SparsityError):
        _tell(f"Wrote {train_pst(config, resume=resume)}")


@app.command("step-by-step")
def step_by_step(
    config: ConfigFile,
    resume: Resume = False,
) -> None:
    """Train a small model on labels and, as a second task, a teacher's rationales."""
    from .config import ConfigError
    from .records import DataError
    from .step_by_step import train_step_by_step

    with _errors_told(ConfigError, DataError):
        _tell(f"Wrote {train_step_by_step(config, resume=resume)}")


@app.command()
def minillm(
    context: typer.Context,
    config: ConfigFile,
    resume: Resume = False,
) -> None:
    """Distil a large model into a small one (MiniLLM), or by a baseline's way."""
    from ..compress.errors import SparsityError
    from .config import ConfigError
    from .minillm import train_minillm
    from .records import DataError

    with _errors_told(ConfigError, DataError, SparsityError):
        _tell(f"Wrote {train_minillm(config, resume=resume, make_generate=context.obj)}")


@app.command()
def continual(
    config: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="YAML file; see the README.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the stage from its newest checkpoint.")
    ] = False,
    start_from: Annotated[
        str | None,
        typer.Option(help="Begin a new stage with the weights of this model or earlier stage."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only print what it costs, against from scratch.")
    ] = False,
    parameters: Annotated[
        str | None, typer.Option(help="With --plan: size of the model, as in 405M.")
    ] = None,
    old_tokens: Annotated[
        str | None, typer.Option(help="With --plan: tokens it was trained on, as in 300B.")
    ] = None,
    new_tokens: Annotated[
        str | None, typer.Option(help="With --plan: tokens that are new.")
    ] = None,
    replay: Annotated[
        float | None, typer.Option(help="With --plan: share of replayed old tokens, as in 0.05.")
    ] = None,
    flops_per_second: Annotated[
        str | None, typer.Option(help="With --plan: what the machines reach, as in 200T.")
    ] = None,
) -> None:
    """Update a language model with new text, or train one from scratch."""
    from .config import ConfigError

    with _errors_told(ConfigError):
        if plan:
            from .continual.plan_command import PlanRequest, print_plan

            counts = (parameters, old_tokens, new_tokens)
            print_plan(PlanRequest(config, *counts, replay, flops_per_second))
            return
        if config is None:
            raise ConfigError("give --config with a YAML file, or --plan")
        _train_continual(config, resume, start_from)


def _train_continual(config: Path, resume: bool, start_from: str | None) -> None:
    from .config import ConfigError
    from .continual import train_continual
    from .continual.source import SourceError
    from .continual.tokens import TokenStoreError
    from .continual.trainer import TrainingError

    try:
        folder = train_continual(config, resume=resume, start_from=start_from)
    except (SourceError, TokenStoreError, TrainingError) as error:
        raise ConfigError(str(error)) from error
    _tell(
        f"Wrote {folder}\n"
        "The weights are new: gist adapters and compressed prompts of other weights do not fit "
        "them. Train the adapter again on this model: gistserve train gist"
    )


@app.command()
def annotate(
    context: typer.Context,
    config: ConfigFile,
) -> None:
    """Have a large model explain and label records, for distilling step-by-step.

    The same command again goes on where it was interrupted.
    """
    from .config import ConfigError
    from .records import DataError
    from .step_by_step.annotation import AnnotationError
    from .step_by_step.annotation import annotate as run

    with _errors_told(AnnotationError, ConfigError, DataError):
        outcome = run(config, make_generate=context.obj)
    typer.echo(f"Wrote {outcome.output}: {outcome.num_annotated} records")
    if outcome.unparsable is not None:
        typer.echo(
            f"{outcome.num_unparsable} records have no answer that could be read; what was said is "
            f"in {outcome.unparsable}"
        )


@app.command()
def demo(
    output: Annotated[Path, typer.Option(file_okay=False, help="Folder for the model.")],
    stage: Annotated[Stage, typer.Option(help="Which part of the recipe to run.")] = Stage.all,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data and training.")] = 0,
) -> None:
    """Train the embedded model from scratch on data that it generates itself."""
    from .demo import train_demo

    with _errors_told(ValueError):
        typer.echo(f"Wrote {train_demo(output, stage=stage.value, seed=seed)}")
