"""The picture of an engine's throughput: shares of what the machine reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PANELS = (
    ("decode", "share_of_bandwidth", "decode: share of the bandwidth"),
    ("decode", "share_of_matmul", "decode: share of the matmul rate"),
    ("prefill", "share_of_matmul", "prefill: share of the matmul rate"),
)


def plot_shares(result: dict[str, Any], path: Path) -> None:
    """Draw shares over the batch, one line a context."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    rows = result["summary"]["rows"]
    batches = sorted({row["batch"] for row in rows})
    for axis, (phase, share, title) in zip(figure.subplots(1, 3), _PANELS, strict=True):
        for context in sorted({row["context"] for row in rows}):
            mine = [row for row in rows if (row["phase"], row["context"]) == (phase, context)]
            mine.sort(key=lambda row: int(row["batch"]))
            shares = [row[share] for row in mine]
            middle = [100 * found["median"] for found in shares]
            below = [100 * (found["median"] - found["least"]) for found in shares]
            above = [100 * (found["greatest"] - found["median"]) for found in shares]
            axis.errorbar(
                [row["batch"] for row in mine],
                middle,
                yerr=(below, above),
                marker="o",
                capsize=2,
                label=f"context {context}",
            )
        axis.set_xscale("log", base=2)
        axis.set_xticks(batches, [str(batch) for batch in batches])
        axis.set_xlabel("batch")
        axis.set_ylabel("%")
        axis.set_ylim(bottom=0)
        axis.set_title(title)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(f"{result['model']}, {result['dtype']} on {result['device']}")
    figure.savefig(path, dpi=120)
