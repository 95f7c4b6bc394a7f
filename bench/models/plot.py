"""The picture of a comparison: quality over speed, a disc's area for bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .rounds import alone

_LARGEST_AREA = 1200.0
_LEAST_AREA = 30.0


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points (x, y) that no other one beats in both, by ascending x.

    Of points that are equal all are kept.
    """

    def beaten(name: str) -> bool:
        x, y = points[name]
        return any(a >= x and b >= y and (a, b) != (x, y) for a, b in points.values())

    return sorted((name for name in points if not beaten(name)), key=lambda name: points[name][0])


def plot_models(result: dict[str, Any], path: Path) -> None:
    """Draw every model whose speed is known; over memory where no quality was measured."""
    from matplotlib.figure import Figure

    models = {name: m for name, m in result["models"].items() if _speed(m, result) is not None}
    with_quality = all(model["quality"] for model in models.values())
    height = _quality if with_quality else _megabytes
    points = {name: (_speed(m, result) or 0.0, height(m)) for name, m in models.items()}
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    if with_quality and points:
        edge = [points[name] for name in frontier(points)]
        axis.plot(*zip(*edge, strict=True), color="0.7", zorder=1)
    largest = max((_megabytes(model) for model in models.values()), default=0.0) or 1.0
    for name, (x, y) in points.items():
        size = _megabytes(models[name])
        axis.scatter(x, y, s=max(_LEAST_AREA, _LARGEST_AREA * size / largest), alpha=0.6, zorder=2)
        label = f"{name}\n{size:.3g} MB"
        axis.annotate(label, (x, y), ha="center", va="center", fontsize=8)
    axis.margins(0.2)
    axis.set_xlabel(f"output tokens a second, alone, {result['concurrency']} requests at a time")
    axis.set_ylabel("ROUGE-L (%)" if with_quality else "MB in memory")
    axis.set_title("discs: bytes in memory; line: not beaten in both" if with_quality else "")
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _speed(model: dict[str, Any], result: dict[str, Any]) -> float | None:
    throughput = model["speed"][alone(result["concurrency"])]["output_throughput"]
    return None if throughput is None else float(throughput["median"])


def _quality(model: dict[str, Any]) -> float:
    return 100 * float(model["quality"]["rouge_l"]["mean"])


def _megabytes(model: dict[str, Any]) -> float:
    """In memory, or on disk where the server does not tell."""
    return float(model["weight_bytes"] or model["disk_bytes"] or 0) / 1e6
