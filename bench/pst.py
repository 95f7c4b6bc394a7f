"""Compares PST with dense fine-tuning, magnitude and movement pruning, run by run."""

import gc
import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..training.pst import train_pst
from .pst_memory import measure_memory
from .pst_plan import Run, planned_runs
from .pst_report import plot_report, print_report, summarise, verdicts
from .results import write_result

logger = logging.getLogger(__name__)

MEMORY = "memory.json"


def compare(data: Path, bases: Path, work: Path, output: Path, *, start_runs: bool = True) -> None:
    """Do the planned runs that are missing, and write the figures after each of them.

    data: folder with the sets; bases: with the base models (see pst_plan.py); work: for the runs;
    output: the JSON file, beside which the picture is put under the same name.
    """
    runs = list(planned_runs())
    if start_runs:
        for run in runs:
            run_all([run], data, bases, work)
            write_report(runs, work, output)
        if not (work / MEMORY).is_file():
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


def run_all(runs: Iterable[Run], data: Path, bases: Path, work: Path) -> None:
    """Do the runs that have no result yet; one that was cut off begins again."""
    for run in runs:
        folder = work / run.name
        if (folder / "results.json").is_file():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        logger.warning("run %s", run.name)
        train_pst(run.config(data, bases, folder))
        shutil.rmtree(folder / "checkpoints")
        gc.collect()


def read_results(runs: Iterable[Run], work: Path) -> list[dict[str, Any]]:
    """What each finished run wrote, with its task, arm, sparsity and seed."""
    found = []
    for run in runs:
        path = work / run.name / "results.json"
        if path.is_file():
            result = json.loads(path.read_text(encoding="utf-8"))
            key = {"task": run.task, "arm": run.arm, "sparsity": run.sparsity, "seed": run.seed}
            found.append({"run": key} | result)
    return found
