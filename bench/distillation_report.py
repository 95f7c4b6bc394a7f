"""The table and the picture of `gistserve bench distillation`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from .distillation_plan import METHODS, SEEDS

METHOD_NAMES = {"sft": "SFT", "kd": "KD", "seqkd": "SeqKD", "minillm": "MiniLLM"}
MEASURES = (
    *("rouge_l", "greedy_rouge_l", "reverse_kl", "reverse_kl_per_token", "loss"),
    *("tokens", "ended", "distinct_4", "exact_match"),
)
COMPARED = {"rouge_l": 1, "greedy_rouge_l": 1, "reverse_kl": -1, "reverse_kl_per_token": -1}
"""Measures that tell which method is ahead: by more (1) or by less (-1) of them."""


def summarise(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for every size and method: its test measures over the seeds.

    `mean` and `sd` (of the sample) are over the seeds; `sd` is None for one seed.
    """
    rows = []
    for size in SEEDS:
        for method in METHODS:
            group = [
                result
                for result in results
                if (result["run"]["size"], result["run"]["method"]) == (size, method)
            ]
            if group:
                rows.append(_row(size, method, group))
    return rows


def _row(size: str, method: str, group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "size": size,
        "method": method,
        "parameters": group[0]["parameters"],
        "teacher_parameters": group[0]["teacher_parameters"],
        "seeds": sorted(result["run"]["seed"] for result in group),
        "kept_steps": [result["kept_step"] for result in group],
        "training_seconds": [result["training_seconds"] for result in group],
        "test": {name: _over_seeds(group, name) for name in MEASURES},
    }


def _over_seeds(group: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    values = [result["measures"]["test"][name] for result in group]
    return {
        "mean": mean(values),
        "sd": stdev(values) if len(values) > 1 else None,
        "values": values,
    }


def verdicts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """MiniLLM against each baseline of its size: the difference of means, and its standard error.

    `ahead`: better by more than one standard error; None where one of the two has a single seed.
    """
    found = []
    for ours in rows:
        for theirs in rows:
            if ours["method"] != "minillm" or theirs["method"] == "minillm":
                continue
            if ours["size"] == theirs["size"]:
                found += [_verdict(ours, theirs, name) for name in COMPARED]
    return found


def _verdict(ours: dict[str, Any], theirs: dict[str, Any], name: str) -> dict[str, Any]:
    one, other = ours["test"][name], theirs["test"][name]
    difference = one["mean"] - other["mean"]
    error = _standard_error(one, other)
    return {
        "size": ours["size"],
        "against": theirs["method"],
        "measure": name,
        "difference": difference,
        "standard_error": error,
        "ahead": None if error is None else COMPARED[name] * difference > error,
    }


def _standard_error(one: dict[str, Any], other: dict[str, Any]) -> float | None:
    if one["sd"] is None or other["sd"] is None:
        return None
    parts = (side["sd"] ** 2 / len(side["values"]) for side in (one, other))
    return math.sqrt(sum(parts))


def print_report(rows: Sequence[dict[str, Any]], console: Console | None = None) -> None:
    """Print one table: a row for every size and method."""
    table = Table(title="Test measures (mean ± standard deviation over seeds)")
    columns = ("student", "method", "seeds", "ROUGE-L", "greedy", "reverse KL", "tokens", "dist-4")
    for name in columns:
        table.add_column(name, justify="left" if name in columns[:2] else "right")
    for row in rows:
        test = row["test"]
        table.add_row(
            f"{row['parameters']:,}",
            METHOD_NAMES[row["method"]],
            str(len(row["seeds"])),
            _shown(test["rouge_l"], 100, 1),
            _shown(test["greedy_rouge_l"], 100, 1),
            _shown(test["reverse_kl"], 1, 1),
            _shown(test["tokens"], 1, 1),
            _shown(test["distinct_4"], 100, 1),
        )
    (console or Console()).print(table)


def _shown(value: dict[str, Any], scale: float, digits: int) -> str:
    spread = "" if value["sd"] is None else f" ± {scale * value['sd']:.{digits}f}"
    return f"{scale * value['mean']:.{digits}f}{spread}"


def plot_report(rows: Sequence[dict[str, Any]], teacher: dict[str, Any], path: Path) -> None:
    """Draw ROUGE-L and the reverse KL of every student, a bar a method."""
    from matplotlib.figure import Figure

    sizes = [size for size in SEEDS if any(row["size"] == size for row in rows)]
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axis, name, scale in ((left, "rouge_l", 100), (right, "reverse_kl", 1)):
        for row in rows:
            value = row["test"][name]
            place = sizes.index(row["size"]) + (METHODS.index(row["method"]) - 1.5) * 0.2
            axis.bar(
                place,
                scale * value["mean"],
                width=0.18,
                yerr=None if value["sd"] is None else scale * value["sd"],
                color=f"C{METHODS.index(row['method'])}",
                label=METHOD_NAMES[row["method"]] if row["size"] == sizes[0] else None,
                capsize=3,
            )
        axis.set_xticks(range(len(sizes)), [_size_label(rows, size) for size in sizes])
    level = 100 * teacher["measures"]["test"]["rouge_l"]
    left.axhline(level, color="0.4", linestyle="--", linewidth=1, label="teacher")
    left.set_ylabel("ROUGE-L, sampled (%)")
    right.set_ylabel("reverse KL to the teacher (nats a response)")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=120)


def _size_label(rows: Sequence[dict[str, Any]], size: str) -> str:
    parameters = next(row["parameters"] for row in rows if row["size"] == size)
    return f"{parameters / 1000:.0f}K parameters"
