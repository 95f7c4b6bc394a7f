"""The table and the picture of `gistserve bench step-by-step`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from .step_by_step_plan import ARMS, TASKS

ARM_NAMES = {
    "fine_tuning": "fine-tuning (gold labels)",
    "distillation": "distillation (teacher's labels)",
    "single_task": "rationale and label in one text",
    "step_by_step": "step-by-step",
}
MEASURES = {
    "svamp": ("accuracy", "exact_match"),
    "cqa": ("accuracy", "ranked_accuracy", "listed"),
}
PLOTTED = {"svamp": "accuracy", "cqa": "ranked_accuracy"}
CHANCE = {"cqa": 0.2}
"""Accuracy of one of the listed choices taken blindly."""


def summarise(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for every task, fraction and arm: test measures over the seeds.

    `mean` and `sd` (of the sample) are over the seeds; `sd` is None for one seed.
    """
    rows = []
    keys = {(r["run"]["task"], r["run"]["fraction"], r["run"]["arm"]) for r in results}
    for task, fraction, arm in sorted(
        keys, key=lambda k: (TASKS.index(k[0]), -k[1], ARMS.index(k[2]))
    ):
        group = [
            r
            for r in results
            if (r["run"]["task"], r["run"]["fraction"], r["run"]["arm"]) == (task, fraction, arm)
        ]
        rows.append(
            {
                "task": task,
                "fraction": fraction,
                "arm": arm,
                "seeds": sorted(r["run"]["seed"] for r in group),
                "examples": group[0]["data"]["examples"],
                "epochs": _epochs(group[0]),
                "test_examples": group[0]["data"]["test"],
                "test": {name: _over_seeds(group, name) for name in MEASURES[task]},
                "training_seconds": [r["training_seconds"] for r in group],
            }
        )
    return rows


def _epochs(result: dict[str, Any]) -> float:
    """How often the run saw each of its examples."""
    config = result["config"]
    return config["max_steps"] * config["batch_size"] / result["data"]["examples"]


def _over_seeds(group: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    values = [result["measures"]["test"][name] for result in group]
    return {
        "mean": mean(values),
        "sd": stdev(values) if len(values) > 1 else None,
        "values": values,
    }


def against_fine_tuning(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each arm's plotted measure is above that of fine-tuning on gold labels.

    With the standard error of the difference: None where one of the two has a single seed.
    """
    found = []
    plain = {(row["task"], row["fraction"]): row for row in rows if row["arm"] == "fine_tuning"}
    for row in rows:
        rival = plain.get((row["task"], row["fraction"]))
        if rival is None or row is rival:
            continue
        measure = PLOTTED[row["task"]]
        ours, theirs = row["test"][measure], rival["test"][measure]
        found.append(
            {
                "task": row["task"],
                "fraction": row["fraction"],
                "arm": row["arm"],
                "measure": measure,
                "difference": ours["mean"] - theirs["mean"],
                "standard_error": _standard_error(ours, theirs),
            }
        )
    return found


def _standard_error(one: dict[str, Any], other: dict[str, Any]) -> float | None:
    if one["sd"] is None or other["sd"] is None:
        return None
    return math.sqrt(sum(side["sd"] ** 2 / len(side["values"]) for side in (one, other)))


def print_report(rows: Sequence[dict[str, Any]], console: Console | None = None) -> None:
    """Print one table: a row for every task, fraction and arm."""
    table = Table(title="Test measures in % (mean ± standard deviation over seeds)")
    for name in ("task", "data", "examples", "epochs", "arm", "seeds", "test"):
        table.add_column(name, justify="left" if name in ("task", "arm", "test") else "right")
    for row in rows:
        table.add_row(
            row["task"],
            f"{row['fraction']:.1%}",
            str(row["examples"]),
            f"{row['epochs']:.1f}",
            ARM_NAMES[row["arm"]],
            str(len(row["seeds"])),
            ", ".join(_shown(name, value) for name, value in row["test"].items()),
        )
    (console or Console()).print(table)


def _shown(name: str, value: dict[str, Any]) -> str:
    spread = "" if value["sd"] is None else f" ± {100 * value['sd']:.1f}"
    return f"{name} {100 * value['mean']:.1f}{spread}"


def plot_report(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw one measure of each task over the share of the data, a line an arm."""
    from matplotlib.figure import Figure

    tasks = [task for task in TASKS if any(row["task"] == task for row in rows)]
    figure = Figure(figsize=(4.5 * len(tasks), 3.6), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for place, arm in enumerate(ARMS):
            found = [row for row in rows if (row["task"], row["arm"]) == (task, arm)]
            values = [row["test"][PLOTTED[task]] for row in found]
            axis.errorbar(
                [100 * row["fraction"] for row in found],
                [100 * value["mean"] for value in values],
                yerr=[100 * (value["sd"] or 0.0) for value in values],
                color=f"C{place}",
                marker="o",
                capsize=3,
                label=arm.replace("_", " "),
            )
        if task in CHANCE:
            axis.axhline(100 * CHANCE[task], color="0.6", linestyle=":", label="chance")
        axis.set_xscale("log", base=2)
        axis.set_xticks([12.5, 25, 50, 100], ["12.5", "25", "50", "100"])
        axis.set_title(task.upper())
        axis.set_xlabel("training data (%)")
        axis.set_ylabel(f"test {PLOTTED[task].replace('_', ' ')} (%)")
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=120)
