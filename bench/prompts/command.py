"""`gistserve bench prompts`."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import typer

from ...server.commands.terminal import fail, out
from ..options import ReportOption, ResultOption


def prompts(
    output: ResultOption = Path("bench/results/prompts.json"),
    report: ReportOption = False,
    model: Annotated[
        str, typer.Option(help="Model folder or hub name, or `embedded`.")
    ] = "embedded",
    random_weights: Annotated[
        Literal["135m", "1b", "8b"] | None,
        typer.Option(help="A model of this shape with random weights instead: no quality."),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Gist adapter. Default: the model's own."),
    ] = None,
    untrained_gists: Annotated[
        int | None,
        typer.Option(min=1, help="Make an untrained adapter of so many gist tokens: no quality."),
    ] = None,
    prompt: Annotated[
        list[Path] | None,
        typer.Option(exists=True, help="A prompt's file, or a folder of them. Repeatable."),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            help="Tokens of synthetic prompts, as in 64,256,1024. Default: from 64 to 8192, as "
            "far as the model goes; none with --prompt."
        ),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(
            help="JSONL of input and expected (and its prompt, else it goes under every --prompt), "
            "to measure quality. The embedded model brings its own."
        ),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Use at most so many of them.")] = 200,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer to one of them.")] = 64,
    budget: Annotated[str, typer.Option(help="Memory that prompts may take.")] = "1GiB",
    concurrency: Annotated[
        list[int] | None,
        typer.Option(min=2, help="Requests at a time, besides one. Repeatable. Default: 8, 32."),
    ] = None,
    requests: Annotated[
        int, typer.Option(min=1, help="Of every prompt, arm and concurrency in a round, at least.")
    ] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="In which the arms take turns.")] = 5,
    input_tokens: Annotated[int, typer.Option(min=1, help="Of a request beside its prompt.")] = 32,
    output_tokens: Annotated[int, typer.Option(min=2, help="Of an answer.")] = 64,
    shared_prompts: Annotated[
        int, typer.Option(min=0, help="Prompts of the shared-prefix workload. 0 leaves it out.")
    ] = 32,
    shared_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of one of them. Default: 1000, or what the model takes."),
    ] = None,
    shared_requests: Annotated[int, typer.Option(min=1, help="Under each of them, a round.")] = 2,
    shared_concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 32,
    cell_seconds: Annotated[
        float, typer.Option(min=1, help="Leave out a measurement that would take longer.")
    ] = 120.0,
    kv_cache_memory: Annotated[
        str | None, typer.Option(help="Memory for the server's KV cache, as in 6GiB.")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where the model runs.")
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Format of weights and cache."),
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of texts and weights.")] = 0,
) -> None:
    """Compare no cache, a cache of the full prompt, and a gist: bytes, speed, quality."""
    from ...server.commands.sizes import parse_size
    from ..load.errors import LoadError
    from ..results import read_result, write_result
    from .compare import compare
    from .inputs import parse_lengths, read_prompts
    from .model_choice import choose_model
    from .settings import PromptsSettings, ServerSettings, SharedPrefix

    try:
        if report:
            _print(read_result(output), output)
            return
        with TemporaryDirectory(prefix="gistserve-") as folder:
            out.print("preparing the model", style="dim")
            chosen = choose_model(
                model,
                Path(folder),
                random_shape=random_weights,
                adapter=adapter,
                untrained_gists=untrained_gists,
                dtype=dtype,
            )
            texts = read_prompts(prompt or ())
            if texts and lengths:
                raise LoadError("--lengths makes prompts up: give it or --prompt, not both.")
            levels = sorted({1, *(concurrency or (8, 32))})
            settings = PromptsSettings(
                server=ServerSettings(
                    chosen.model,
                    chosen.adapter,
                    device,
                    dtype,
                    kv_cache_memory,
                    max_num_seqs=max(*levels, shared_concurrency),
                ),
                title=chosen.title,
                trained=chosen.trained,
                prompts=texts,
                lengths=parse_lengths(lengths) if lengths else (),
                concurrencies=levels,
                requests=requests,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                budget=parse_size(budget),
                rounds=rounds,
                cell_seconds=cell_seconds,
                shared=SharedPrefix(
                    shared_prompts, shared_tokens, shared_requests, shared_concurrency
                )
                if shared_prompts
                else None,
                labelled=chosen.labelled(inputs, texts, examples, seed),
                max_tokens=max_tokens,
                seed=seed,
            )
            result = compare(settings, out)
    except ValueError as error:
        fail(str(error))
    write_result(output, result)
    _print(result, output)


def _print(result: dict[str, Any], output: Path) -> None:
    from .plot import plot_prompts
    from .report import print_report

    print_report(result, out)
    plot_prompts(result, output.with_suffix(".png"))
    typer.echo(f"{output}, {output.with_suffix('.png')}")
