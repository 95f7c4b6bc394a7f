"""Compares PST with dense fine-tuning, magnitude and movement pruning, run by run."""

import gc
import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..training.pst import train_pst
from .pst_memory import measure_memory
from .pst_plan import Run, planned_runs
from .pst_report import plot_report, print_report, summarise, verdicts
from .results import write_result

logger = logging.getLogger(__name__)

MEMORY = "memory.json"
RESULTS = "results.json"


def compare(data: Path, bases: Path, work: Path, output: Path, tasks: Sequence[str]) -> None:
    """Do the planned runs of `tasks` that are missing; write all figures after each of them.

    data: folder with the sets; bases: with the base models (see pst_plan.py); work: for the runs;
    output: the JSON file, beside which the picture is put under the same name.
    """
    runs = list(planned_runs())
    for run in runs:
        if run.task in tasks and not _is_done(run, work):
            _do(run, data, bases, work)
            write_report(runs, work, output)
    if tasks and not (work / MEMORY).is_file():
        (work / MEMORY).write_text(json.dumps(measure_memory()), encoding="utf-8")
    print_report(write_report(runs, work, output))


def write_report(runs: list[Run], work: Path, output: Path) -> list[dict[str, Any]]:
    """Write all figures that there are so far, and return the rows of the table."""
    results = read_results(runs, work)
    rows = summarise(results)
    memory = work / MEMORY
    figures = {
        "memory_of_bert_base": json.loads(memory.read_text()) if memory.is_file() else None,
        "finished_runs": len(results),
        "planned_runs": len(runs),
        "table": rows,
        "pst_against_movement": verdicts(rows),
        "runs": results,
    }
    write_result(output, figures)
    if rows:
        plot_report(rows, output.with_suffix(".png"))
    return rows


def _is_done(run: Run, work: Path) -> bool:
    return (work / run.name / RESULTS).is_file()


def _do(run: Run, data: Path, bases: Path, work: Path) -> None:
    """Train; one that was cut off begins again."""
    folder = work / run.name
    shutil.rmtree(folder, ignore_errors=True)
    logger.warning("run %s", run.name)
    train_pst(run.config(data, bases, folder))
    shutil.rmtree(folder / "checkpoints")
    gc.collect()


def read_results(runs: Iterable[Run], work: Path) -> list[dict[str, Any]]:
    """What each finished run wrote, with its task, arm, sparsity and seed."""
    found = []
    for run in runs:
        if _is_done(run, work):
            result = json.loads((work / run.name / RESULTS).read_text(encoding="utf-8"))
            key = {"task": run.task, "arm": run.arm, "sparsity": run.sparsity, "seed": run.seed}
            found.append({"run": key} | result)
    return found
