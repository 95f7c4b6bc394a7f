"""`gistserve bench http`."""

from pathlib import Path
from typing import Annotated

import typer

from ...server.commands.terminal import fail


def http(
    model: Annotated[
        str | None, typer.Option(help="Model folder or hub name. Default: the embedded one.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="A server of this model, with default settings. Default: one is started."
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Streams at a time.")] = 64,
    requests: Annotated[int, typer.Option(min=1, help="Of each arm in a round.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="In which the arms take turns.")] = 7,
    input_tokens: Annotated[
        str, typer.Option(help="Length of a prompt, as `bench serve` has it.")
    ] = "32",
    output_tokens: Annotated[str, typer.Option(help="Length of an answer.")] = "64",
    health_probes: Annotated[
        int, typer.Option(min=0, help="Requests of /health, without and with load.")
    ] = 300,
    threads: Annotated[
        int | None, typer.Option(min=1, help="torch's threads, of both arms. Default: its own.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of texts and lengths.")] = 0,
    output: Annotated[Path | None, typer.Option(dir_okay=False, help="JSON file.")] = None,
) -> None:
    """Measure what HTTP costs: streams of a server against its engine driven directly.

    All take turns on the same requests. The server is a process of its own; its client and the
    engine driven directly are in this one. The client is measured twice: scheduled so that it
    never interrupts the server, as one on another machine, and competing with it for the cores.
    """
    import os

    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch, here and in the server
    from rich.console import Console

    from ...server.commands.model_source import embedded_source, parse_source
    from ...server.engine.errors import EngineError
    from ..load.lengths import parse_lengths
    from ..load.workload import Workload
    from ..results import write_result
    from .compare import OverheadSettings, compare
    from .report import print_report

    console = Console()
    try:
        settings = OverheadSettings(
            source=embedded_source() if model is None else parse_source(model),
            workload=Workload(parse_lengths(input_tokens), parse_lengths(output_tokens)),
            url=url,
            concurrency=concurrency,
            requests=requests,
            rounds=rounds,
            health_probes=health_probes,
            seed=seed,
        )
        with console.status("starting") as status:
            result = compare(settings, status.update)
    except (EngineError, OSError, ValueError) as error:
        fail(str(error))
    print_report(result, console)
    if output is not None:
        write_result(output, result)
        typer.echo(f"written to {output}")
