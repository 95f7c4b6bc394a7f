"""The picture of a load test: throughput and latencies over the load."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def plot_points(result: dict[str, Any], path: Path) -> None:
    """Draw the points of one kind of loop; the closed ones where there are both."""
    from matplotlib.figure import Figure

    loops = {point["load"]["loop"] for point in result["points"]}
    loop = "closed" if "closed" in loops else "open"
    points = [point for point in result["points"] if point["load"]["loop"] == loop]
    key, label = (
        ("concurrency", "requests at a time") if loop == "closed" else ("rate", "requests a second")
    )
    points.sort(key=lambda point: float(point["load"][key]))
    loads = [point["load"][key] for point in points]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    throughput, *latencies = figure.subplots(1, 3)
    measure = "output_throughput" if result["tells_usage"] else "request_throughput"
    throughput.plot(loads, [point[measure] for point in points], marker="o")
    throughput.set_title(measure.replace("_", " ") + " (a second)")
    for axis, name in zip(latencies, ("ttft", "tpot"), strict=True):
        known = [point for point in points if point[f"{name}_ms"] is not None]
        for figure_name in ("median", "p95", "p99"):
            axis.plot(
                [point["load"][key] for point in known],
                [point[f"{name}_ms"][figure_name] for point in known],
                marker="o",
                label=figure_name,
            )
        axis.set_title(f"{name.upper()} (ms)")
        if known:
            axis.legend()
    for axis in (throughput, *latencies):
        axis.set_xscale("log", base=2)
        axis.set_xticks(loads, [f"{load:g}" for load in loads])
        axis.set_xlabel(label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    figure.suptitle(result["model"])
    figure.savefig(path, dpi=120)
