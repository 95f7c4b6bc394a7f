"""Figures of the comparison, from results written by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from gistserve.bench.pst import read_results, write_report
from gistserve.bench.pst_plan import ARMS, TASKS, Run, planned_runs
from gistserve.bench.pst_report import print_report, summarise, verdicts
from rich.console import Console

pytest.importorskip("matplotlib")


def result(measure: float, arm: str, **test: float) -> dict[str, Any]:
    return {
        "sparsity": 0.0 if arm == "dense" else 0.9,
        "measures": {"test": {"accuracy": measure, **test}},
        "trained_parameters": 10,
        "trained_share_of_model": 0.1,
        "trained_share_of_weights_and_scores": 0.05,
        "memory": {"peak_bytes": 3_000_000, "held_bytes": 1_000_000},
        "training_seconds": 1.5,
    }


def write_runs(work: Path) -> list[Run]:
    runs = []
    values = {"mvp": (0.80, 0.82, 0.84), "pst": (0.79, 0.80, 0.81), "dense": (0.9,)}
    for arm, measures in values.items():
        for seed, measure in enumerate(measures, start=1):
            run = Run("trec", arm, 0.0 if arm == "dense" else 0.9, seed)  # type: ignore[arg-type]
            (work / run.name).mkdir(parents=True)
            text = json.dumps(result(measure, arm))
            (work / run.name / "results.json").write_text(text)
            runs.append(run)
    return [*runs, Run("sst2", "pst", 0.9, 1)]  # which is not done yet


def test_means_spread_and_verdict(tmp_path: Path) -> None:
    results = read_results(write_runs(tmp_path), tmp_path)
    assert len(results) == 7
    rows = {row["arm"]: row for row in summarise(results)}
    assert list(rows) == ["dense", "mvp", "pst"]
    assert rows["mvp"]["test"]["accuracy"]["mean"] == pytest.approx(0.82)
    assert rows["mvp"]["test"]["accuracy"]["sd"] == pytest.approx(0.02)
    assert rows["dense"]["test"]["accuracy"]["sd"] is None
    (verdict,) = verdicts(list(rows.values()))
    assert verdict["difference"] == pytest.approx(-0.02)
    assert verdict["standard_error"] == pytest.approx(math.sqrt((0.02**2 + 0.01**2) / 3))
    assert verdict["holds"] is False


def test_the_report_is_written_and_printed(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "work")
    rows = write_report(runs, tmp_path / "work", tmp_path / "pst.json")
    written = json.loads((tmp_path / "pst.json").read_text())
    assert (written["finished_runs"], written["planned_runs"]) == (7, 8)
    assert (tmp_path / "pst.png").stat().st_size > 1000
    console = Console(record=True, width=160)
    print_report(rows, console)
    text = console.export_text()
    assert "accuracy 82.0 ± 2.0" in text
    assert "accuracy 90.0 " in text


def test_the_plan_has_three_seeds_at_90_percent_and_one_at_50() -> None:
    runs = list(planned_runs())
    assert len({run.name for run in runs}) == len(runs)
    for task in TASKS:
        for arm in ARMS:
            sparse = 0.0 if arm == "dense" else 0.9
            mine = [run for run in runs if (run.task, run.arm) == (task, arm)]
            embeddings = arm.endswith("embeddings")
            at_90_percent = 3 if task == "sst2" or not embeddings else 0
            assert len([run for run in mine if run.sparsity == sparse]) == at_90_percent
            at_50_percent = arm != "dense" and not embeddings
            assert len([run for run in mine if run.sparsity == 0.5]) == at_50_percent


def test_runs_are_valid_settings(tmp_path: Path) -> None:
    for run in planned_runs():
        config = run.config(tmp_path / "data", tmp_path / "bases", tmp_path / run.name)
        assert config.method == ("pst" if run.arm.startswith("pst") else config.method)
        assert config.sparsity == run.sparsity
        assert config.train_data.startswith(str(tmp_path / "data"))
