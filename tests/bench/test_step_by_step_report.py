"""Figures of the comparison, from results written by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from gistserve.bench.step_by_step import read_results, write_report
from gistserve.bench.step_by_step_plan import ARMS, ONCE, REPEATED, TASKS, Run, planned_runs
from gistserve.bench.step_by_step_report import against_fine_tuning, print_report, summarise
from rich.console import Console

pytest.importorskip("matplotlib")


def write_runs(work: Path) -> list[Run]:
    runs = []
    values = {"step_by_step": (0.3, 0.4), "fine_tuning": (0.1, 0.3), "distillation": (0.2,)}
    for arm, measures in values.items():
        for seed, accuracy in enumerate(measures, start=1):
            run = Run("cqa", arm, 0.25, seed)  # type: ignore[arg-type]
            result: dict[str, Any] = {
                "config": {"max_steps": 30, "batch_size": 5, "train_data": "/home/me/a.jsonl"},
                "measures": {"test": {"accuracy": 0.0, "ranked_accuracy": accuracy, "listed": 0.9}},
                "data": {"examples": 50, "test": 20},
                "training_seconds": 1.5,
            }
            (work / run.name).mkdir(parents=True)
            (work / run.name / "results.json").write_text(json.dumps(result))
            runs.append(run)
    return [*runs, Run("svamp", "fine_tuning", 1.0, 1)]  # which is not done yet


def test_means_spread_and_differences(tmp_path: Path) -> None:
    results = read_results(write_runs(tmp_path), tmp_path)
    assert len(results) == 5
    rows = {row["arm"]: row for row in summarise(results)}
    assert list(rows) == ["fine_tuning", "distillation", "step_by_step"]
    assert rows["step_by_step"]["test"]["ranked_accuracy"]["mean"] == pytest.approx(0.35)
    assert rows["step_by_step"]["test"]["ranked_accuracy"]["sd"] == pytest.approx(
        0.1 / math.sqrt(2)
    )
    assert rows["step_by_step"]["epochs"] == pytest.approx(3.0)
    assert rows["distillation"]["test"]["ranked_accuracy"]["sd"] is None
    one, ours = against_fine_tuning(list(rows.values()))
    assert (one["arm"], one["standard_error"]) == ("distillation", None)
    assert ours["difference"] == pytest.approx(0.15)
    # Standard deviations of 0.1 and 0.2 over the square root of two, two seeds each.
    assert ours["standard_error"] == pytest.approx(math.sqrt(0.01 / 4 + 0.04 / 4))


def test_the_report_is_written_and_printed(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "work")
    rows = write_report(runs, tmp_path / "work", tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["runs"][0]["config"]["train_data"] == "a.jsonl"
    assert (written["finished_runs"], written["planned_runs"]) == (5, 6)
    assert (tmp_path / "out.png").stat().st_size > 1000
    console = Console(record=True, width=200)
    print_report(rows, console)
    text = console.export_text()
    assert "accuracy 35.0 ± 7.1, listed 90.0 ±" in text
    assert "accuracy 20.0, listed" in text


def test_the_plan_repeats_25_and_100_percent(tmp_path: Path) -> None:
    runs = list(planned_runs())
    assert len({run.name for run in runs}) == len(runs)
    for task in TASKS:
        for arm in ARMS:
            mine = [run.fraction for run in runs if (run.task, run.arm) == (task, arm)]
            assert sorted(mine) == sorted(3 * REPEATED + ONCE)
    assert (REPEATED, ONCE) == ((1.0, 0.25), (0.5, 0.125))


def test_runs_are_valid_settings(tmp_path: Path) -> None:
    for run in planned_runs():
        config = run.config(tmp_path / "data", tmp_path / "base", tmp_path / run.name)
        assert config.labels == ("teacher" if run.arm == "distillation" else "gold")
        standard = run.arm in ("fine_tuning", "distillation")
        assert config.method == ("standard" if standard else run.arm)
        assert config.train_data.startswith(str(tmp_path / "data"))
