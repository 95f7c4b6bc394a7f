"""The table and the picture of ``continual``'s figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_PANELS = {"old": "held-out old text", "new": "held-out new text", "average": "average"}


def print_arms(figures: dict[str, Any], console: Console | None = None) -> None:
    """Print one table: a row an arm, with losses in nats a token over its seeds."""
    table = Table(title="Loss after training; tokens and seconds are of the arm's own stage")
    for heading in ("", "old", "new", "average", "tokens", "seconds", "seeds"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in figures["summary"]:
        losses = [_spread(row[key], row[f"{key}_std"]) for key in _PANELS]
        costs = (f"{row['tokens']:,}", f"{row['training_seconds']:.0f}", str(row["seeds"]))
        table.add_row(row["arm"], *losses, *costs)
    (console or Console()).print(table)


def plot_arms(figures: dict[str, Any], path: Path) -> None:
    """Draw losses against tokens, a panel a measure, and the learning rates, into a PNG file.

    An update's line begins where the training on old text ends; several seeds are drawn as one
    mean line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    for number, name in enumerate(dict.fromkeys(run["arm"] for run in figures["runs"])):
        own = [run for run in figures["runs"] if run["arm"] == name]
        first = _starts_at(own[0], figures)
        style = {"label": f"{name} ({len(own)} seeds)" if len(own) > 1 else name}
        style |= {"color": f"C{number}"} if number < 10 else {"color": "black"}
        for axes, key in zip(panels.flat, _PANELS, strict=False):
            axes.plot(*_mean_curve(own, key, first), marker=".", **style)
        rates = [row for row in own[0]["curve"] if "learning_rate" in row]
        x = [row["tokens"] + first for row in rates]
        panels.flat[3].plot(x, [row["learning_rate"] for row in rates], **style)
    for axes, title in zip(panels.flat, [*_PANELS.values(), "learning rate"], strict=True):
        axes.set_title(title)
        axes.set_xlabel("tokens")
    for axes in panels.flat[:3]:
        axes.set_ylabel("loss (nats a token)")
    panels.flat[2].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def _starts_at(run: dict[str, Any], figures: dict[str, Any]) -> int:
    starts_new = run["arm"].startswith(("old only", "union"))
    return 0 if starts_new else int(figures["summary"][0]["tokens"])


def _mean_curve(runs: list[dict[str, Any]], key: str, first: int) -> tuple[list[int], list[float]]:
    curves = [[row for row in run["curve"] if "validation" in row] for run in runs]
    points = list(zip(*curves, strict=True))
    x = [rows[0]["tokens"] + first for rows in points]
    return x, [sum(row["validation"][key] for row in rows) / len(rows) for rows in points]


def _spread(value: float, deviation: float | None) -> str:
    return f"{value:.3f}" if deviation is None else f"{value:.3f} ± {deviation:.3f}"
