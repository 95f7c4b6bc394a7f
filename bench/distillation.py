"""MiniLLM against fine-tuning, word-level and sequence-level distillation, on one teacher."""

from __future__ import annotations

import gc
import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..training.checkpoints import CHECKPOINTS
from ..training.continual import train_continual
from ..training.continual.stage import STAGE_NAME
from ..training.minillm import train_minillm
from ..training.minillm.artifact import MODEL, RESULTS
from ..training.minillm.config import MiniLLMConfig
from ..training.minillm.run import WARM_START
from .distillation_data import prepare_data
from .distillation_plan import SEEDS, TEACHER, Run, base_config, planned_runs, teacher_config
from .distillation_report import plot_report, summarise, verdicts
from .results import write_result

logger = logging.getLogger(__name__)


def compare(
    stories: Path, model: Path, work: Path, output: Path, runs: Sequence[Run]
) -> list[dict[str, Any]]:
    """Do those of `runs` that are not done yet, and write table, picture and all figures.

    stories: folder of TinyStories' train.jsonl and valid.jsonl. model: what the teacher is made of.
    work: folder for data and models; what is finished there is not done again.
    """
    if runs:
        _prepare(stories, model, work)
    for run in runs:
        if not (work / "runs" / run.name / MODEL).is_dir():
            logger.warning("run %s", run.name)
            _train(run.config(work))
    results = read_results(planned_runs(), work)
    rows = summarise(results)
    teacher = _result(work / TEACHER, work)
    figures = {
        "teacher": teacher,
        "finished_runs": len(results),
        "planned_runs": len(list(planned_runs())),
        "table": rows,
        "minillm_against": verdicts(rows),
        "runs": results,
    }
    write_result(output, figures)
    if rows:
        plot_report(rows, teacher, output.with_suffix(".png"))
    return rows


def _prepare(stories: Path, model: Path, work: Path) -> None:
    """Data, students before distillation, and the teacher, as far as they are not there."""
    if not (work / "data").is_dir():
        prepare_data(stories, work / "data")
    for size in SEEDS:
        config = base_config(size, model, work)
        if not (Path(config.output_dir) / STAGE_NAME).is_file():
            logger.warning("base %s", size)
            shutil.rmtree(config.output_dir, ignore_errors=True)
            train_continual(config)
    if not (work / TEACHER / MODEL).is_dir():
        logger.warning("teacher")
        _train(teacher_config(model, work))


def _train(config: MiniLLMConfig) -> None:
    """Train; one that was cut off begins again. What only a resumed run needs is removed."""
    folder = Path(config.output_dir)
    shutil.rmtree(folder, ignore_errors=True)
    train_minillm(config)
    for name in (CHECKPOINTS, WARM_START):
        shutil.rmtree(folder / name, ignore_errors=True)
    gc.collect()


def read_results(runs: Iterable[Run], work: Path) -> list[dict[str, Any]]:
    """What each finished run wrote, with its size, method and seed."""
    found = []
    for run in runs:
        folder = work / "runs" / run.name
        if (folder / MODEL).is_dir():
            key = {"size": run.size, "method": run.method, "seed": run.seed}
            found.append({"run": key} | _result(folder, work))
    return found


def _result(folder: Path, work: Path) -> dict[str, Any]:
    """What a run wrote, with paths that say nothing of the machine: from `work`, or their name."""
    found: dict[str, Any] = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    for name, value in found["config"].items():
        if isinstance(value, str) and Path(value).is_absolute():
            path = Path(value)
            inside = path.is_relative_to(work.resolve())
            found["config"][name] = str(path.relative_to(work.resolve())) if inside else path.name
    return found
