"""A picture of a stage: losses and learning rate against tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

PLOT_NAME = "losses.png"
_NAMES = {"old": "old data", "new": "new data", "average": "average of both"}


def plot_stage(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the lines of a `metrics.jsonl` into a PNG file: losses above, learning rate below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    training = [row for row in rows if "loss" in row]
    x = [row["tokens"] for row in training]
    losses.plot(x, [row["loss"] for row in training], color="0.75", label="training")
    rates.plot(x, [row["learning_rate"] for row in training], color="black")
    measured = [row for row in rows if "validation" in row]
    for key, label in _NAMES.items():
        points = [(r["tokens"], r["validation"][key]) for r in measured if key in r["validation"]]
        if points:
            losses.plot(*zip(*points, strict=True), marker=".", label=label)
    losses.set_ylabel("loss (nats a token)")
    losses.legend()
    rates.set_ylabel("learning rate")
    rates.set_xlabel("tokens")
    figure.savefig(path, dpi=120)
