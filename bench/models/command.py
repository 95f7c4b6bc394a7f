"""`gistserve bench models`."""

from pathlib import Path
from typing import Annotated

import typer

from ...server.commands.connection import ApiKeyOption
from ...server.commands.terminal import fail
from ..load.endpoint import Endpoint
from ..options import ResultOption


def models(
    model: Annotated[
        list[str],
        typer.Option(
            help="Model folder or hub name, as NAME=PATH. Repeatable; others are compared with "
            "the first one."
        ),
    ],
    output: ResultOption,
    data: Annotated[
        str | None, typer.Option(help="JSONL file of prompts and responses, to measure quality.")
    ] = None,
    prompt: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Text file: a prompt that all requests follow, kept by the server as full-prefix "
            "cache and, in a row of its own, as gist of each model that has a gist adapter.",
        ),
    ] = None,
    gist_adapter: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of a gist adapter; finds its model by itself. Repeatable. One in a "
            "model's own gist_adapter folder is found.",
        ),
    ] = None,
    prompt_field: Annotated[str, typer.Option(help="Field of a prompt.")] = "prompt",
    response_field: Annotated[str, typer.Option(help="Field of its response.")] = "response",
    examples: Annotated[int | None, typer.Option(min=1, help="Read only so many prompts.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer to one of them.")] = 64,
    url: Annotated[
        str | None,
        typer.Option(help="A server that has these models. Default: one is started."),
    ] = None,
    api_key: ApiKeyOption = None,
    endpoint: Annotated[
        Endpoint, typer.Option(help="Which interface is called.")
    ] = Endpoint.completions,
    concurrency: Annotated[int, typer.Option(min=2, help="Requests at a time, besides one.")] = 8,
    requests: Annotated[
        int, typer.Option(min=1, help="Of every model and load, in every round.")
    ] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="In which the models take turns.")] = 5,
    input_tokens: Annotated[
        str, typer.Option(help="Length of a prompt, as `bench serve` has it.")
    ] = "64",
    output_tokens: Annotated[str, typer.Option(help="Length of an answer.")] = "64",
    kv_cache_memory: Annotated[
        str | None, typer.Option(help="Memory for the KV caches of all models, as in 2GiB.")
    ] = None,
    prompt_memory: Annotated[
        str | None,
        typer.Option(help="Of each model's KV cache, for the prompt's caches. Default: half."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of texts and lengths.")] = 0,
) -> None:
    """Serve several models together; compare their memory, speed and quality."""
    from rich.console import Console

    from ...server.commands.model_source import parse_source
    from ..load.lengths import parse_lengths
    from ..load.workload import Workload
    from ..results import write_result
    from .compare import ModelsSettings, compare
    from .plot import plot_models
    from .quality import read_labelled
    from .report import print_report
    from .served import ServerSettings

    console = Console()
    try:
        settings = ModelsSettings(
            sources=[parse_source(text) for text in model],
            workload=Workload(
                input_tokens=parse_lengths(input_tokens),
                output_tokens=parse_lengths(output_tokens),
                prompt_files=(prompt,) if prompt else (),
            ),
            url=url,
            server=ServerSettings(tuple(gist_adapter or ()), kv_cache_memory, prompt_memory),
            api_key=api_key,
            endpoint=endpoint,
            concurrency=concurrency,
            requests=requests,
            rounds=rounds,
            labelled=read_labelled(data, prompt_field, response_field, examples) if data else (),
            max_tokens=max_tokens,
            seed=seed,
        )
        result = compare(settings, console)
    except ValueError as error:
        fail(str(error))
    if data:
        result["data"] = {"file": Path(data).name, "examples": len(settings.labelled)}
    write_result(output, result)
    plot_models(result, output.with_suffix(".png"))
    print_report(result, console)
    typer.echo(f"written to {output}")
