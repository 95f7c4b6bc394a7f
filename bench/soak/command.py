"""`gistserve bench soak`."""

from pathlib import Path
from typing import Annotated

import typer

from ...server.commands.terminal import fail


def soak(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long load is put on it.")] = 20.0,
    workers: Annotated[int, typer.Option(min=1, help="Clients at a time.")] = 12,
    model: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, exists=True, help="Model with a gist adapter. Default: the embedded."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what the clients do.")] = 0,
    output: Annotated[Path, typer.Option(dir_okay=False, help="JSON file for the figures.")] = Path(
        "bench/results/soak.json"
    ),
) -> None:
    """Serve under random load, cancels, overload, expiries, SIGTERM and SIGKILL; tell what broke.

    Ends with status 1 if a block leaked, a prompt was lost, memory grew, a request failed that the
    server's own end does not explain, or an answer was not the one of a quiet server.
    """
    from ...server.demo import EMBEDDED_MODEL
    from ...server.demo.process import ServerProcessError
    from ..results import write_result
    from .quiet import SoakFailed
    from .report import report_lines
    from .run import run_soak
    from .settings import SoakSettings

    settings = SoakSettings(
        model=model or EMBEDDED_MODEL, seconds=60 * minutes, workers=workers, seed=seed
    )
    try:
        figures = run_soak(settings, typer.echo)
    except (SoakFailed, ServerProcessError) as error:
        fail(str(error))
    write_result(output, figures)
    for line in report_lines(figures):
        typer.echo(line)
    typer.echo(f"written to {output}")
    if figures["num_violations"]:
        raise typer.Exit(1)
