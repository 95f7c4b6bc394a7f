"""`gistserve serve`: load models, open the prompt store and answer HTTP."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ... import __version__
from .address import AddressError, bind
from .model_source import embedded_source, parse_source
from .sizes import parse_size
from .terminal import err, fail


class Device(StrEnum):
    """Where the models run; `auto` takes CUDA where there is a GPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Dtype(StrEnum):
    """Number format of weights and KV cache; `auto` takes the checkpoint's own."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Hugging Face name or folder, as NAME=PATH to choose the served name. "
            "Repeatable. Without it: the small embedded model."
        ),
    ] = None,
    gist_adapter: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a gist adapter; finds its model by itself. Repeatable."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free port.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="GISTSERVE_API_KEY", help="Key that clients must send."),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the models run.")] = Device.auto,
    dtype: Annotated[Dtype, typer.Option(help="Format of weights and cache.")] = Dtype.auto,
    max_model_len: Annotated[
        int | None, typer.Option(min=1, help="Longest prompt plus answer, in tokens.")
    ] = None,
    max_num_seqs: Annotated[
        int, typer.Option(min=1, help="Requests that run at the same time.")
    ] = 64,
    max_num_batched_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens that one step of the engine works on.")
    ] = 2048,
    kv_cache_memory: Annotated[
        str | None, typer.Option(help="Memory for the KV cache of each model, as in 2GiB.")
    ] = None,
    gpu_memory_utilization: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1.0,
            help="Share of the GPU's memory that may be in use once the KV cache is allocated.",
        ),
    ] = 0.9,
    enforce_eager: Annotated[
        bool,
        typer.Option("--enforce-eager", help="Decode without CUDA graphs: slower, starts faster."),
    ] = False,
    compile: Annotated[
        bool,
        typer.Option("--compile", help="Compile the model's layers: faster, but a slow start."),
    ] = False,
    prefix_caching: Annotated[
        bool,
        typer.Option(
            "--prefix-caching/--no-prefix-caching",
            help="Reuse the cache of equal beginnings of requests.",
        ),
    ] = True,
    store: Annotated[
        Path | None,
        typer.Option(help="Folder for registered prompts; by default in the user's cache folder."),
    ] = None,
) -> None:
    """Serve models over an OpenAI-compatible HTTP interface."""
    try:
        sources = [parse_source(text) for text in model or []] or [embedded_source()]
        memory = None if kv_cache_memory is None else parse_size(kv_cache_memory)
        listener = bind(host, port)
    except (ValueError, AddressError) as error:
        fail(str(error), code=2)
    # Only now torch and the web framework are imported: they take seconds.
    err.print(f"starting gistserve {__version__}", style="dim", highlight=False)
    from .serving import ServeOptions, run

    run(
        ServeOptions(
            sources=sources,
            adapter_folders=gist_adapter or [],
            store=store,
            api_key=api_key,
            device=device.value,
            dtype=dtype.value,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            kv_cache_memory=memory,
            gpu_memory_utilization=gpu_memory_utilization,
            enforce_eager=enforce_eager,
            compile=compile,
            prefix_caching=prefix_caching,
        ),
        listener,
    )
