"""`gistserve bench serve`."""

from pathlib import Path
from typing import Annotated

import typer

from ...server.commands.connection import DEFAULT_URL, ApiKeyOption, UrlOption
from ...server.commands.terminal import fail
from .compression import Compression
from .endpoint import Endpoint


def serve(
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
    model: Annotated[
        str | None, typer.Option(help="Name of the model. Default: the first one listed.")
    ] = None,
    endpoint: Annotated[
        Endpoint, typer.Option(help="Which interface is called.")
    ] = Endpoint.completions,
    concurrency: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Closed loop: requests at a time. Repeatable. Default: 1 and 8."),
    ] = None,
    rate: Annotated[
        list[float] | None,
        typer.Option(help="Open loop: requests a second, at random times. Repeatable."),
    ] = None,
    burstiness: Annotated[
        float, typer.Option(help="Of an open loop: 1 is Poisson; less comes in bursts.")
    ] = 1.0,
    requests: Annotated[int, typer.Option(min=1, help="Measured requests of every load.")] = 100,
    prompts: Annotated[
        int, typer.Option(min=0, help="Synthetic prompts that the requests share.")
    ] = 0,
    prompt_file: Annotated[
        list[Path] | None, typer.Option(help="A shared prompt of your own. Repeatable.")
    ] = None,
    prompt_tokens: Annotated[str, typer.Option(help="Length of a shared prompt.")] = "512",
    input_tokens: Annotated[
        str,
        typer.Option(
            help="Length of a request's own text: N, uniform:LOW,HIGH, normal:MEAN,SD[,LOW,HIGH] "
            "or lognormal:MEDIAN,SIGMA[,LOW,HIGH]."
        ),
    ] = "64",
    output_tokens: Annotated[str, typer.Option(help="Length of an answer.")] = "64",
    register: Annotated[
        Compression | None,
        typer.Option(help="Register the shared prompts first and refer to them (gistserve only)."),
    ] = None,
    ignore_eos: Annotated[
        bool, typer.Option(help="Ask for answers of full length, where the server can.")
    ] = True,
    slo: Annotated[
        list[str] | None,
        typer.Option(help="Objective for goodput in ms: ttft:200, tpot:50 or e2el:5000."),
    ] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Requests before each load.")] = 2,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one request.")] = 600.0,
    seed: Annotated[int, typer.Option(min=0, help="Of texts, lengths and arrivals.")] = 0,
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="JSON file; a PNG is put beside it.")
    ] = None,
) -> None:
    """Put load on a running OpenAI-compatible server and measure throughput and latencies."""
    from rich.console import Console

    from .errors import LoadError
    from .lengths import parse_lengths
    from .point import sweep
    from .report import print_report
    from .run import measure_load
    from .settings import LoadSettings
    from .slo import parse_slo
    from .workload import Workload

    console = Console()
    try:
        settings = LoadSettings(
            url=url.rstrip("/").removesuffix("/v1"),
            api_key=api_key,
            model=model,
            endpoint=endpoint,
            workload=Workload(
                num_prompts=prompts,
                prompt_files=tuple(prompt_file or ()),
                prompt_tokens=parse_lengths(prompt_tokens),
                input_tokens=parse_lengths(input_tokens),
                output_tokens=parse_lengths(output_tokens),
            ),
            points=sweep(concurrency or [], rate or [], burstiness),
            requests=requests,
            register=register,
            ignore_eos=ignore_eos,
            slo=parse_slo(slo or ()),
            warmup=warmup,
            timeout=timeout,
            seed=seed,
        )
        result = measure_load(settings, console)
    except LoadError as error:
        fail(str(error))
    print_report(result, console)
    if output is not None:
        _write(result, output)
    if all(point["failed"] == point["requests"] for point in result["points"]):
        fail("every request failed.")


def _write(result: dict[str, object], output: Path) -> None:
    from ..results import write_result
    from .plot import plot_points

    write_result(output, result)
    plot_points(result, output.with_suffix(".png"))
    typer.echo(f"written to {output}")
