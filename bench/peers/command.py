"""`gistserve bench peers`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ...server.commands.terminal import fail
from ..options import ReportOption, ResultOption


class Shape(StrEnum):
    """Sizes of random models; 135m is SmolLM2-135M's."""

    small = "135m"


class Precision(StrEnum):
    """Of weights and KV caches."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def peers(
    model: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder of a model. Default: random weights."),
    ] = None,
    shape: Annotated[Shape, typer.Option(help="Of the random weights.")] = Shape.small,
    gguf: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="The same model for llama.cpp, by its convert_hf_to_gguf.py --outtype f32 or "
            "bf16. Default: written here, of Llama models with GPT-2's or SmolLM's tokenizer.",
        ),
    ] = None,
    dtype: Annotated[Precision, typer.Option(help="Of weights and caches.")] = Precision.float32,
    transformers: Annotated[
        str | None,
        typer.Option(
            help="Command of transformers, as in /venv/bin/transformers. Default: the one "
            "installed here (pip install 'transformers[serving]')."
        ),
    ] = None,
    llama_server: Annotated[
        str | None,
        typer.Option(
            help="Path of llama.cpp's llama-server, or 'PYTHON -m llama_cpp.server' (which answers "
            "one request at a time). Default: llama-server on the PATH, else the bindings "
            "installed here (pip install 'llama-cpp-python[server]')."
        ),
    ] = None,
    concurrency: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Requests at a time. Repeatable. Default: 1, 8 and 32."),
    ] = None,
    requests: Annotated[
        int,
        typer.Option(
            min=1, help="Of every server and load in a round; no fewer than twice the load."
        ),
    ] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="In which the servers take turns.")] = 5,
    input_tokens: Annotated[int, typer.Option(min=1, help="Exact length of a prompt.")] = 128,
    output_tokens: Annotated[int, typer.Option(min=2, help="Exact length of an answer.")] = 64,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of every server. Default: one a core.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the texts.")] = 0,
    output: ResultOption = Path("bench/results/peers.json"),
    report: ReportOption = False,
) -> None:
    """Measure our server beside transformers' and llama.cpp's: same weights, requests, threads.

    All run on this machine's processor, but only one at a time: the others are held. A peer that
    is not installed is left out, and the report says so.
    """
    from rich.console import Console

    from ..results import read_result, write_result
    from .plot import plot_peers
    from .report import print_report

    console = Console()
    try:
        if report:
            result = read_result(output)
        else:
            from .run import compare
            from .settings import PeersSettings, usable_cores

            settings = PeersSettings(
                shape=shape.value,
                model=model,
                gguf=gguf,
                dtype=dtype.value,
                transformers=transformers,
                llama_server=llama_server,
                concurrency=sorted(set(concurrency or (1, 8, 32))),
                requests=requests,
                rounds=rounds,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                threads=threads or usable_cores(),
                seed=seed,
            )
            result = compare(settings, console, lambda found: write_result(output, found))
    except (OSError, ValueError) as error:
        fail(str(error))
    print_report(result, console)
    if not result["summary"]:
        fail("every measurement was left out.")
    plot_peers(result, output.with_suffix(".png"))
    if not report:
        typer.echo(f"written to {output}")
