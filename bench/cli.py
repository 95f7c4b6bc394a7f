"""`gistserve bench`: measurements of running servers and of compressed prompts."""

from pathlib import Path
from typing import Annotated

import typer

from ..server.commands.terminal import fail
from .engine.command import engine
from .http_overhead.command import http
from .load.command import serve
from .models.command import models
from .options import ResultOption
from .peers.command import peers
from .prompts.command import prompts
from .soak.command import soak

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Measure quality, speed and memory."
)


@app.callback()
def bench() -> None:
    """Measure quality, speed and memory."""


app.command()(serve)
app.command()(engine)
app.command()(http)
app.command()(models)
app.command()(prompts)
app.command()(peers)
app.command()(soak)


@app.command()
def policies(
    output: Annotated[Path, typer.Option(dir_okay=False, help="JSON file for the figures.")] = Path(
        "bench/results/policy_quality.json"
    ),
    model: Annotated[
        Path | None, typer.Option(file_okay=False, help="Model folder; default: the embedded one.")
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Adapter folder; default: the model's gist_adapter."),
    ] = None,
    count: Annotated[int, typer.Option("--policies", min=1, help="Policies in each split.")] = 1000,
    split: Annotated[
        list[str] | None, typer.Option(help="Only this split; repeatable. Default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the policies and messages.")] = 20_000,
) -> None:
    """Answer unseen policies with the full prompt, its gist, and what a gist must beat."""
    from ..server.demo import EMBEDDED_MODEL
    from .policy_quality import SPLITS, PolicyQuality
    from .policy_report import print_report
    from .results import write_result

    unknown = sorted(set(split or ()) - set(SPLITS))
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]!r} is none of {', '.join(SPLITS)}", param_hint="split"
        )
    folder = model or EMBEDDED_MODEL
    quality = PolicyQuality(folder, adapter or folder / "gist_adapter")
    figures = quality.run(count, seed, split or tuple(SPLITS))
    write_result(output, figures | {"seed": seed})
    print_report(figures)
    typer.echo(f"written to {output}")


@app.command()
def continual(
    old: Annotated[Path, typer.Option(exists=True, help="Text the model is trained on first.")],
    new: Annotated[Path, typer.Option(exists=True, help="Text it is updated with.")],
    work: Annotated[Path, typer.Option(file_okay=False, help="Folder for data and models.")],
    output: ResultOption,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of each stage.")] = 250_000,
    infinite_replay: Annotated[
        float, typer.Option(min=0, max=0.99, help="Replay of the arm with infinite schedules.")
    ] = 0.05,
    seeds: Annotated[int, typer.Option(min=1, help="Of the repeated arms.")] = 3,
    arm: Annotated[
        list[str] | None, typer.Option(help="Only this arm, as in '25% replay'; repeatable.")
    ] = None,
) -> None:
    """Update a small model with new text in several ways, against training on both from scratch.

    Stopped, it goes on where it stood when the command is given again.
    """
    from ..training.continual.source import Source
    from .continual import ContinualBench, Setup
    from .continual_report import plot_arms, print_arms
    from .results import write_result

    setup = Setup(tokens=tokens, infinite_replay=infinite_replay, seeds=seeds)
    first, second = (Source(name=path.stem, path=str(path)) for path in (old, new))
    try:
        for figures in ContinualBench(work, first, second, setup).run(arm or ()):
            write_result(output, {"old": old.name, "new": new.name} | figures)
    except ValueError as error:
        fail(str(error))
    plot_arms(figures, output.with_suffix(".png"))
    print_arms(figures)
    typer.echo(f"written to {output}")


@app.command()
def pst(
    data: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder of sst2_trec/ and e2e/.")
    ],
    bases: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder of encoder/ and decoder/.")
    ],
    work: Annotated[Path, typer.Option(file_okay=False, help="Folder for the runs.")],
    output: Annotated[Path, typer.Option(dir_okay=False, help="JSON file for the figures.")] = Path(
        "bench/results/pst.json"
    ),
    task: Annotated[
        list[str] | None, typer.Option(help="Run only this set; repeatable. Default: all.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Start no run; only gather those that are done.")
    ] = False,
) -> None:
    """Compare PST with dense fine-tuning, magnitude and movement pruning; goes on where it was."""
    from .pst import compare
    from .pst_plan import TASKS

    unknown = sorted(set(task or ()) - set(TASKS))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(TASKS)}", param_hint="task")
    compare(data, bases, work, output, () if report else task or TASKS)
    typer.echo(f"written to {output}")


@app.command("step-by-step")
def step_by_step(
    data: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Folder of cqa_train.jsonl, svamp_..."),
    ],
    base: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Model that every run begins with.")
    ],
    work: Annotated[Path, typer.Option(file_okay=False, help="Folder for the runs.")],
    output: Annotated[Path, typer.Option(dir_okay=False, help="JSON file for the figures.")] = Path(
        "bench/results/step_by_step.json"
    ),
    task: Annotated[
        list[str] | None, typer.Option(help="Run only this set; repeatable. Default: all.")
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(help="Run only this seed; repeatable. Default: all."),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Start no run; only gather those that are done.")
    ] = False,
) -> None:
    """Compare step-by-step with plain training on labels; goes on where it was."""
    from .step_by_step import compare
    from .step_by_step_plan import SEEDS, TASKS

    unknown = sorted(set(task or ()) - set(TASKS))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(TASKS)}", param_hint="task")
    compare(data, base, work, output, () if report else task or TASKS, seed or SEEDS)
    typer.echo(f"written to {output}")


@app.command()
def distillation(
    stories: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="TinyStories' train.jsonl, valid.jsonl."),
    ],
    model: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="What the teacher is made of.")
    ],
    work: Annotated[Path, typer.Option(file_okay=False, help="Folder for data and models.")],
    output: Annotated[Path, typer.Option(dir_okay=False, help="JSON file for the figures.")] = Path(
        "bench/results/distillation.json"
    ),
    size: Annotated[
        list[str] | None, typer.Option(help="Only students of this size; repeatable.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Only runs of this seed; repeatable.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Start no run; only gather those that are done.")
    ] = False,
) -> None:
    """Compare MiniLLM with SFT, KD and SeqKD on one teacher; goes on where it was."""
    from .distillation import compare
    from .distillation_plan import SEEDS, planned_runs
    from .distillation_report import print_report

    unknown = sorted(set(size or ()) - set(SEEDS))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(SEEDS)}", param_hint="size")
    chosen = [
        run
        for run in planned_runs()
        if not report and (not size or run.size in size) and (not seed or run.seed in seed)
    ]
    print_report(compare(stories, model, work, output, chosen))
    typer.echo(f"written to {output}")
