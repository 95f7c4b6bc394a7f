"""`gistserve bench engine`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ...server.commands.model_options import Dtype
from ...server.commands.serve_options import Device
from ...server.commands.terminal import fail
from ..options import ReportOption, ResultOption


class Shape(StrEnum):
    """Sizes of models with random weights."""

    tiny = "tiny"
    m135 = "135m"
    b1 = "1b"
    b8 = "8b"


def engine(
    model: Annotated[str | None, typer.Option(help="Model folder or hub name.")] = None,
    shape: Annotated[
        Shape, typer.Option(help="Without --model: random weights of a model of this size.")
    ] = Shape.m135,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Sequences. Repeatable. Default: 1, 8 and 32.")
    ] = None,
    context: Annotated[
        list[int] | None,
        typer.Option(min=16, help="Prompt tokens, a multiple of 16. Default: 64, 512 and 4096."),
    ] = None,
    most_tokens: Annotated[
        int, typer.Option(min=1, help="Leave out cases of more prompt tokens together.")
    ] = 32_768,
    rounds: Annotated[int, typer.Option(min=1, help="Over all cases.")] = 3,
    steps: Annotated[int, typer.Option(min=2, help="Decode steps of a case in a round.")] = 32,
    device: Annotated[Device, typer.Option(help="Where the model runs.")] = Device.auto,
    dtype: Annotated[Dtype, typer.Option(help="Format of weights and cache.")] = Dtype.auto,
    enforce_eager: Annotated[
        bool, typer.Option("--enforce-eager", help="Decode without CUDA graphs.")
    ] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the model's layers.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="torch's threads on the CPU. Default: its own.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and prompts.")] = 0,
    output: ResultOption = Path("bench/results/engine.json"),
    report: ReportOption = False,
) -> None:
    """Measure prefill and decoding without HTTP, against the machine's bandwidth and matmuls."""
    from rich.console import Console

    from ...server.engine.errors import EngineError
    from ..results import read_result
    from .plot import plot_shares
    from .report import print_report

    console = Console()
    try:
        if report:
            result = read_result(output)
        else:
            result = _measure(
                console,
                output,
                threads,
                model=model,
                shape=shape.value,
                batches=batch or (1, 8, 32),
                contexts=context or (64, 512, 4096),
                most_tokens=most_tokens,
                rounds=rounds,
                steps=steps,
                seed=seed,
                device=device.value,
                dtype=dtype.value,
                enforce_eager=enforce_eager,
                compile=compile,
            )
    except (EngineError, OSError, ValueError, RuntimeError) as error:
        fail(str(error))
    plot_shares(result, output.with_suffix(".png"))
    print_report(result, console)


def _measure(
    console: Any,
    output: Path,
    threads: int | None,
    *,
    device: str,
    dtype: str,
    enforce_eager: bool,
    compile: bool,
    **settings: Any,
) -> dict[str, Any]:
    import torch

    from ...server.engine.config import EngineConfig
    from ..results import write_result
    from .measure import EngineBenchSettings, measure

    if threads is not None:
        torch.set_num_threads(threads)
    found = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    with console.status("starting") as status:
        result = measure(
            EngineBenchSettings(
                device=torch.device(found),
                dtype=None if dtype == "auto" else getattr(torch, dtype),
                config=EngineConfig(enforce_eager=enforce_eager, compile=compile),
                **settings,
            ),
            status.update,
        )
    write_result(output, result)
    typer.echo(f"written to {output}")
    return result
