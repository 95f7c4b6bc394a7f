"""The picture of a comparison of servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PANELS = {
    "output_throughput": "output tokens a second",
    "ttft_ms": "TTFT (ms)",
    "tpot_ms": "TPOT (ms)",
}


def plot_peers(result: dict[str, Any], path: Path) -> None:
    """Draw medians over the load with bars from least to greatest, a line a server."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, len(_PANELS))
    loads = sorted({entry["concurrency"] for entry in result["summary"]})
    for axis, (measure, title) in zip(axes, _PANELS.items(), strict=True):
        for name in result["servers"]:
            points = [
                (entry["concurrency"], entry[measure])
                for entry in result["summary"]
                if entry["server"] == name and entry[measure] is not None
            ]
            medians = [spread["median"] for _, spread in points]
            bars = [
                [spread["median"] - spread["least"] for _, spread in points],
                [spread["greatest"] - spread["median"] for _, spread in points],
            ]
            x = [load for load, _ in points]
            axis.errorbar(x, medians, bars, marker="o", capsize=3, label=name)
        axis.set_title(title)
        axis.set_xscale("log", base=2)
        axis.set_xticks(loads, [str(load) for load in loads])
        axis.set_xlabel("requests at a time")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(
        f"{result['model']['name']}, {result['model']['dtype']}, {result['threads']} threads"
    )
    figure.savefig(path, dpi=120)
