"""`gistserve compress`: makes models smaller."""

import hashlib
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..signals import terminate_as_interrupt
from .model_options import Dtype
from .serve_options import Device
from .terminal import err, fail, out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

app = typer.Typer(no_args_is_help=True, help="Make models smaller.")


class Method(StrEnum):
    """How weights are scored."""

    magnitude = "magnitude"
    wanda = "wanda"


class Pattern(StrEnum):
    """Where zeros may lie."""

    unstructured = "unstructured"
    balanced = "balanced"
    two_four = "2:4"


@app.callback()
def compress() -> None:
    """Make models smaller."""


@app.command()
def sparse(
    model: Annotated[str, typer.Option(help="Folder or Hugging Face name of a dense model.")],
    sparsity: Annotated[
        float, typer.Option(help="Share of weights that become zero: 0.9 keeps one of ten.")
    ],
    output: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    method: Annotated[
        Method, typer.Option(help="magnitude: needs no data; wanda: better, needs text.")
    ] = Method.magnitude,
    pattern: Annotated[
        Pattern,
        typer.Option(
            help="unstructured: anywhere; balanced: equally many in every 256 columns of a row; "
            "2:4: two of every four."
        ),
    ] = Pattern.unstructured,
    calibration: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help='For wanda: a text file, or .jsonl with a "text" on each line.',
        ),
    ] = None,
    calibration_samples: Annotated[
        int, typer.Option(min=1, help="Pieces of the text to use, at most.")
    ] = 128,
    calibration_length: Annotated[
        int, typer.Option(min=2, help="Tokens of each piece, at most.")
    ] = 2048,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only this linear layer: a name, its ending, or a layer. Repeatable."),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Leave this linear layer dense. Repeatable.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    dtype: Annotated[Dtype, typer.Option(help="Format of the stored weights.")] = Dtype.auto,
) -> None:
    """Set a model's least important weights to zero and store it without them."""
    from ...compress.errors import GistError
    from ...compress.sparse.output_folder import check_free
    from ...compress.sparse.pattern import Pattern as SparsePattern
    from ...compress.sparse.pattern import check_sparsity
    from ..engine.errors import EngineError

    if (calibration is None) != (method is Method.magnitude):
        fail(
            "--method wanda needs --calibration FILE."
            if calibration is None
            else "--calibration is for --method wanda.",
            code=2,
        )
    options = {"sparsity": sparsity, "method": method.value, "pattern": pattern.value}
    limits = {"samples": calibration_samples, "length": calibration_length}
    try:
        check_sparsity(sparsity, SparsePattern(pattern.value))
        check_free(output)
        with terminate_as_interrupt():
            facts = _make(
                model,
                output,
                options | {"only": only or (), "skip": skip or ()},
                calibration,
                limits,
                {"device": device.value, "dtype": dtype.value},
            )
    except KeyboardInterrupt:
        fail("stopped; nothing was written.", code=130)
    except (EngineError, GistError, OSError, ValueError) as error:
        fail(str(error))
    _report(output, facts)


def _make(
    model_name: str,
    output: Path,
    options: dict[str, Any],
    calibration: Path | None,
    limits: dict[str, int],
    place: dict[str, str],
) -> dict[str, Any]:
    """Load, prune and save; the facts that were measured."""
    from ...compress.sparse import save_sparse, sparsify
    from ..engine.loader import load_model

    device, dtype = ({"auto": None}.get(place[key], place[key]) for key in ("device", "dtype"))
    err.print(f"loading {model_name}", style="dim", highlight=False, markup=False)
    model, tokenizer = load_model(model_name, dtype, device)
    manifest: dict[str, Any] = {"base_model": _public_name(model_name)}
    tokens = None
    if calibration is not None:
        tokens = _calibration_tokens(calibration, tokenizer, limits, model.config)
        content = calibration.read_bytes()
        manifest["calibration_file"] = calibration.name
        manifest["calibration_sha256"] = hashlib.sha256(content).hexdigest()
    with _progress() as on_progress:
        recipe = sparsify(model, calibration=tokens, on_progress=on_progress, **options)
    err.print(f"writing {output}", style="dim", highlight=False, markup=False)
    return save_sparse(model, output, recipe, tokenizer=tokenizer, manifest=manifest)


def _calibration_tokens(
    path: Path, tokenizer: Any, limits: dict[str, int], config: Any
) -> "Tensor":
    from ...compress.sparse import calibration_tokens

    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    length = min(limits["length"], longest or limits["length"])
    return calibration_tokens(path, tokenizer, samples=limits["samples"], length=length)


def _public_name(model_name: str) -> str:
    """The hub's name, or the folder's own name without where it lies on this machine."""
    folder = Path(model_name).expanduser()
    return folder.resolve().name if folder.is_dir() else model_name


@contextmanager
def _progress() -> "Iterator[Callable[[int, int], None]]":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("pruning"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("pruning", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _report(output: Path, facts: dict[str, Any]) -> None:
    ratio = facts["dense_bytes"] / facts["tensor_bytes"]
    lines = [
        f"{facts['measured_sparsity']:.2%} of {len(facts['modules'])} linear layers' weights are "
        f"zero; dense were left {len(facts['dense_modules'])} modules (see the card)",
        f"{facts['dense_bytes']:,} bytes dense, {facts['tensor_bytes']:,} sparse: "
        f"{ratio:.2f} times smaller",
        f"Wrote {output}",
    ]
    for line in lines:
        out.print(line, soft_wrap=True, highlight=False, markup=False)
