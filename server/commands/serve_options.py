"""The options of `gistserve serve`: declared once, given by flag, environment or YAML file."""

import inspect
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ..logs import LogFormat, LogLevel
from .config_file import use_config_file
from .model_options import Dtype, ModelOptions, parse_model
from .sizes import parse_size

ENVIRONMENT_PREFIX = "GISTSERVE_"


class Device(StrEnum):
    """Where the models run; `auto` takes CUDA where there is a GPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def _model(value: str) -> ModelOptions:
    try:
        return parse_model(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _size(value: str | int) -> int:
    try:
        return parse_size(str(value))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _size_or_zero(value: str | int) -> int:
    return 0 if str(value).strip() == "0" else _size(value)


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What `gistserve serve` can be told; sizes in bytes, None where a default applies.

    A new option is a new field here: its flag, its environment variable and its key in the YAML
    file follow from its name.
    """

    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with options, each under its variable's name in small letters "
            "without GISTSERVE_.",
            dir_okay=False,
            is_eager=True,
            callback=use_config_file,
        ),
    ] = None
    models: Annotated[
        list[ModelOptions] | None,
        typer.Option(
            "--model",
            parser=_model,
            metavar="[NAME=]PATH",
            help="Hugging Face name or folder, as NAME=PATH to choose the served name; with "
            'options of its own as JSON: {"path": ..., "max_model_len": ...}. Repeatable. '
            "Without it: the small embedded model.",
        ),
    ] = None
    gist_adapters: Annotated[
        list[Path] | None,
        typer.Option(
            "--gist-adapter",
            parser=Path,
            metavar="FOLDER",
            help="Folder of a gist adapter; finds its model by itself. Repeatable.",
        ),
    ] = None
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free port.")] = 8000
    api_key: Annotated[str | None, typer.Option(help="Key that clients must send.")] = None
    cors_origins: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin",
            help="Web page that may call from a browser, as in https://example.com; * for all. "
            "Repeatable.",
        ),
    ] = None
    max_body_size: Annotated[
        int,
        typer.Option(
            parser=_size, metavar="SIZE", show_default="16MiB", help="Largest request body."
        ),
    ] = 16 * 2**20
    max_total_body_size: Annotated[
        int | None,
        typer.Option(
            parser=_size,
            metavar="SIZE",
            help="Large request bodies that are held at the same time, together. Default: 16 of "
            "the largest.",
        ),
    ] = None
    device: Annotated[Device, typer.Option(help="Where the models run.")] = Device.auto
    dtype: Annotated[Dtype, typer.Option(help="Format of weights and cache.")] = Dtype.auto
    max_model_len: Annotated[
        int | None, typer.Option(min=1, help="Longest prompt plus answer, in tokens.")
    ] = None
    max_num_seqs: Annotated[
        int, typer.Option(min=1, help="Requests that run at the same time.")
    ] = 64
    max_num_batched_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens that one step of the engine works on.")
    ] = 2048
    max_queue: Annotated[
        int, typer.Option(min=0, help="Requests that may wait for a model; more are refused.")
    ] = 256
    max_queue_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of prompts that may wait for a model. Default: any."),
    ] = None
    queue_timeout: Annotated[
        float | None,
        typer.Option(min=0.001, help="Seconds that a request may wait for its turn. Default: any."),
    ] = None
    request_timeout: Annotated[
        float | None,
        typer.Option(min=0.001, help="Seconds that a request may take in all. Default: any."),
    ] = None
    step_timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Seconds that one step of a model may take; /health answers 503 while one takes "
            "longer. Default: 300 with a GPU, 1800 on a CPU.",
        ),
    ] = None
    shutdown_timeout: Annotated[
        float,
        typer.Option(min=0, help="Seconds that running requests get to finish at SIGTERM."),
    ] = 30.0
    kv_cache_memory: Annotated[
        int | None,
        typer.Option(
            parser=_size,
            metavar="SIZE",
            help="Memory for the KV caches of all models together, as in 2GiB.",
        ),
    ] = None
    prompt_memory: Annotated[
        int | None,
        typer.Option(
            parser=_size,
            metavar="SIZE",
            help="Of each model's KV cache, for registered prompts; those used least recently "
            "leave it when it is full, and come back when they are used. Default: half.",
        ),
    ] = None
    prompt_host_memory: Annotated[
        int | None,
        typer.Option(
            parser=_size_or_zero,
            metavar="SIZE",
            help="Main memory for copies of registered prompts, from where they come back faster "
            "than from the disk. Default: 4GiB with a GPU, none on a CPU.",
        ),
    ] = None
    gpu_memory_utilization: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1.0,
            help="Share of the GPU's memory that may be in use once the KV cache is allocated.",
        ),
    ] = 0.9
    enforce_eager: Annotated[
        bool,
        typer.Option("--enforce-eager", help="Decode without CUDA graphs: slower, starts faster."),
    ] = False
    compile: Annotated[
        bool,
        typer.Option("--compile", help="Compile the model's layers: faster, but a slow start."),
    ] = False
    decode_batch: Annotated[
        int,
        typer.Option(
            min=1,
            help="Requests that are answered at the same time as a rule: sparse layers take the "
            "format that is expected to be fastest for as many on a GPU.",
        ),
    ] = 8
    prefix_caching: Annotated[
        bool,
        typer.Option(
            "--prefix-caching/--no-prefix-caching",
            help="Reuse the cache of equal beginnings of requests.",
        ),
    ] = True
    embeddings: Annotated[
        bool,
        typer.Option(
            "--embeddings",
            help="Make embeddings with every model, of the last token's final hidden state, also "
            "where it was not made for them; and answer with those made for nothing else.",
        ),
    ] = False
    log_level: Annotated[LogLevel, typer.Option(help="The least that is logged.")] = LogLevel.info
    log_format: Annotated[
        LogFormat, typer.Option(help="text: key=value, for people; json: an object a line.")
    ] = LogFormat.text
    store: Annotated[
        Path | None,
        typer.Option(help="Folder for registered prompts; by default in the user's cache folder."),
    ] = None
    store_limit: Annotated[
        int | None,
        typer.Option(
            parser=_size,
            metavar="SIZE",
            help="Bytes that the folder may take; then prompts are refused. Default: any.",
        ),
    ] = None


def command_signature(options: type[ServeOptions]) -> inspect.Signature:
    """The signature by which Typer offers every field as an option, with its variable."""
    hints = get_type_hints(options, include_extras=True)
    parameters = []
    for parameter in inspect.signature(options).parameters.values():
        annotation: Any = hints[parameter.name]
        (option,) = annotation.__metadata__
        option.envvar = ENVIRONMENT_PREFIX + parameter.name.upper()
        parameters.append(parameter.replace(annotation=annotation))
    return inspect.Signature(parameters)
