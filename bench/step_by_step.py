"""Compares step-by-step with plain training on labels, run by run."""

import gc
import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..training.step_by_step import train_step_by_step
from .results import write_result
from .step_by_step_plan import SEEDS, Run, planned_runs
from .step_by_step_report import against_fine_tuning, plot_report, print_report, summarise

logger = logging.getLogger(__name__)

RESULTS = "results.json"
_PLACES = ("model", "train_data", "validation_data", "test_data", "output_dir")


def compare(
    data: Path,
    base: Path,
    work: Path,
    output: Path,
    tasks: Sequence[str],
    seeds: Sequence[int] = SEEDS,
) -> None:
    """Do the planned runs of `tasks` and `seeds` that are missing; write all figures after each.

    data: folder with cqa_train.jsonl, ...; base: the model that every run begins with; work: for
    the runs; output: the JSON file, beside which the picture is put under the same name.
    """
    runs = list(planned_runs())
    for run in runs:
        if run.task in tasks and run.seed in seeds and not _is_done(run, work):
            _do(run, data, base, work)
            write_report(runs, work, output)
    print_report(write_report(runs, work, output))


def write_report(runs: list[Run], work: Path, output: Path) -> list[dict[str, Any]]:
    """Write all figures that there are so far, and return the rows of the table."""
    results = read_results(runs, work)
    rows = summarise(results)
    figures = {
        "finished_runs": len(results),
        "planned_runs": len(runs),
        "table": rows,
        "against_fine_tuning": against_fine_tuning(rows),
        "runs": results,
    }
    write_result(output, figures)
    if rows:
        plot_report(rows, output.with_suffix(".png"))
    return rows


def read_results(runs: Iterable[Run], work: Path) -> list[dict[str, Any]]:
    """What each finished run wrote, with its task, arm, fraction and seed; places by name alone."""
    found = []
    for run in runs:
        if _is_done(run, work):
            result = json.loads((work / run.name / RESULTS).read_text(encoding="utf-8"))
            key = {"task": run.task, "arm": run.arm, "fraction": run.fraction, "seed": run.seed}
            found.append({"run": key} | _without_folders(result))
    return found


def _without_folders(result: dict[str, Any]) -> dict[str, Any]:
    """Where files lay on one machine tells others nothing."""
    config = result["config"]
    places = {name: config.get(name) for name in _PLACES}
    named = {name: place and Path(place).name for name, place in places.items()}
    return result | {"config": config | named, "base_model": named["model"]}


def _is_done(run: Run, work: Path) -> bool:
    return (work / run.name / RESULTS).is_file()


def _do(run: Run, data: Path, base: Path, work: Path) -> None:
    """Train; one that was cut off begins again."""
    folder = work / run.name
    shutil.rmtree(folder, ignore_errors=True)
    logger.warning("run %s", run.name)
    train_step_by_step(run.config(data, base, folder))
    shutil.rmtree(folder / "checkpoints")
    gc.collect()
