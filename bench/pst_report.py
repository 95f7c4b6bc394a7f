"""The table and the picture of `gistserve bench pst`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from .pst_plan import ARMS, TASKS

ARM_NAMES = {
    "dense": "dense fine-tuning",
    "map": "magnitude pruning (MaP)",
    "mvp": "movement pruning (MvP)",
    "pst": "PST",
    "pst_balanced": "PST, balanced",
    "mvp_embeddings": "MvP and embeddings",
    "pst_embeddings": "PST and embeddings",
}
_LABELS = {
    "pst_balanced": "pst, balanced",
    "mvp_embeddings": "mvp, embeddings",
    "pst_embeddings": "pst, embeddings",
}
MEASURES = {"sst2": ("accuracy",), "trec": ("accuracy",), "e2e": ("bleu", "rouge_l")}
_RIVALS = {"pst": "mvp", "pst_balanced": "mvp", "pst_embeddings": "mvp_embeddings"}
_SHARES = ("trained_parameters", "trained_share_of_model", "trained_share_of_weights_and_scores")


def summarise(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for every task, sparsity and arm: test measures over seeds, memory, trained share.

    `mean` and `sd` (of the sample) are over the seeds; `sd` is None for one seed.
    """
    rows = []
    keys = {(r["run"]["task"], r["run"]["arm"], r["run"]["sparsity"]) for r in results}
    order = sorted(keys, key=lambda k: (TASKS.index(k[0]), -(k[2] or 1), ARMS.index(k[1])))
    for task, arm, sparsity in order:
        group = [
            r
            for r in results
            if (r["run"]["task"], r["run"]["arm"], r["run"]["sparsity"]) == (task, arm, sparsity)
        ]
        first = group[0]
        rows.append(
            {
                "task": task,
                "arm": arm,
                "sparsity": sparsity,
                "measured_sparsity": first["sparsity"],
                "seeds": sorted(r["run"]["seed"] for r in group),
                "test": {name: _over_seeds(group, name) for name in MEASURES[task]},
                **{name: first[name] for name in _SHARES},
                "peak_training_bytes": first["memory"]["peak_bytes"],
                "held_training_bytes": first["memory"].get("held_bytes"),
                "training_seconds": [r["training_seconds"] for r in group],
            }
        )
    return rows


def _over_seeds(group: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    values = [result["measures"]["test"][name] for result in group]
    return {
        "mean": mean(values),
        "sd": stdev(values) if len(values) > 1 else None,
        "values": values,
    }


def verdicts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """PST against movement pruning: the difference of means, and its standard error.

    With the embeddings trained it is compared with movement pruning that trains them too. `holds`:
    PST is better, or worse by no more than one standard error of the difference; None where one of
    the two has a single seed.
    """
    found = []
    for row in rows:
        if row["arm"] not in _RIVALS:
            continue
        for rival in rows:
            same = (rival["task"], rival["sparsity"]) == (row["task"], row["sparsity"])
            if not same or rival["arm"] != _RIVALS[row["arm"]]:
                continue
            for name, ours in row["test"].items():
                theirs = rival["test"][name]
                error = _standard_error(ours, theirs)
                difference = ours["mean"] - theirs["mean"]
                found.append(
                    {
                        "task": row["task"],
                        "arm": row["arm"],
                        "sparsity": row["sparsity"],
                        "measure": name,
                        "difference": difference,
                        "standard_error": error,
                        "holds": None if error is None else difference >= -error,
                    }
                )
    return found


def _standard_error(one: dict[str, Any], other: dict[str, Any]) -> float | None:
    if one["sd"] is None or other["sd"] is None:
        return None
    parts = (side["sd"] ** 2 / len(side["values"]) for side in (one, other))
    return math.sqrt(sum(parts))


def print_report(rows: Sequence[dict[str, Any]], console: Console | None = None) -> None:
    """Print one table: a row for every task, sparsity and arm."""
    table = Table(title="Test measures (mean ± standard deviation over seeds)")
    for name in (
        "task",
        "arm",
        "zeros",
        "seeds",
        "test",
        "trained / model",
        "/ + scores",
        "peak MB",
    ):
        table.add_column(name, justify="left" if name in ("task", "arm") else "right")
    for row in rows:
        table.add_row(
            row["task"],
            ARM_NAMES[row["arm"]],
            f"{row['measured_sparsity']:.1%}",
            str(len(row["seeds"])),
            ", ".join(_shown(name, value) for name, value in row["test"].items()),
            f"{row['trained_share_of_model']:.1%}",
            f"{row['trained_share_of_weights_and_scores']:.1%}",
            f"{row['peak_training_bytes'] / 1e6:.1f}",
        )
    (console or Console()).print(table)


def _shown(name: str, value: dict[str, Any]) -> str:
    scale = 1 if name == "bleu" else 100
    spread = "" if value["sd"] is None else f" ± {scale * value['sd']:.1f}"
    return f"{name} {scale * value['mean']:.1f}{spread}"


def plot_report(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the first measure of every task at the highest sparsity, a bar an arm."""
    from matplotlib.figure import Figure

    tasks = [task for task in TASKS if any(row["task"] == task for row in rows)]
    figure = Figure(figsize=(4 * len(tasks), 3.6), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        measure = MEASURES[task][0]
        shown = [row for row in rows if row["task"] == task and row["sparsity"] in (0.0, 0.9)]
        scale = 1 if measure == "bleu" else 100
        for place, row in enumerate(shown):
            value = row["test"][measure]
            axis.bar(
                place,
                scale * value["mean"],
                yerr=None if value["sd"] is None else scale * value["sd"],
                color="0.6" if row["arm"] == "dense" else f"C{ARMS.index(row['arm'])}",
                capsize=3,
            )
        labels = [_LABELS.get(row["arm"], row["arm"]) for row in shown]
        axis.set_xticks(range(len(shown)), labels, fontsize=8, rotation=30, ha="right")
        axis.set_title(f"{task}, 90% sparse")
        axis.set_ylabel("BLEU" if measure == "bleu" else f"{measure} (%)")
    figure.savefig(path, dpi=120)
