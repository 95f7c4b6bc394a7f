"""`gistserve bench`: measurements of running servers and of compressed prompts."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Measure quality, speed and memory."
)


@app.callback()
def bench() -> None:
    """Measure quality, speed and memory."""


@app.command()
def policies(
    output: Annotated[Path, typer.Option(dir_okay=False, help="JSON file for the figures.")] = Path(
        "bench/results/policy_quality.json"
    ),
    model: Annotated[
        Path | None, typer.Option(file_okay=False, help="Model folder; default: the embedded one.")
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Adapter folder; default: the model's gist_adapter."),
    ] = None,
    count: Annotated[int, typer.Option("--policies", min=1, help="Policies in each split.")] = 1000,
    split: Annotated[
        list[str] | None, typer.Option(help="Only this split; repeatable. Default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the policies and messages.")] = 20_000,
) -> None:
    """Answer unseen policies with the full prompt, its gist, and what a gist must beat."""
    from ..server.demo import EMBEDDED_MODEL
    from .policy_quality import SPLITS, PolicyQuality
    from .policy_report import print_report
    from .results import write_result

    unknown = sorted(set(split or ()) - set(SPLITS))
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]!r} is none of {', '.join(SPLITS)}", param_hint="split"
        )
    folder = model or EMBEDDED_MODEL
    quality = PolicyQuality(folder, adapter or folder / "gist_adapter")
    figures = quality.run(count, seed, split or tuple(SPLITS))
    write_result(output, figures | {"seed": seed})
    print_report(figures)
    typer.echo(f"written to {output}")
