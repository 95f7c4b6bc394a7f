"""The picture of a comparison: quality over speed, a mark's area for bytes."""

from __future__ import annotations

from collections.abc import Mapping
from math import pi
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .rounds import alone

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Square points.
_LARGEST_AREA = 950.0
_LEAST_AREA = 25.0
_LEGEND_AREA = 50.0
# matplotlib's size of a circle is that of the square around it, and of a diamond its own.
_SIZE_OF_AREA = {"o": 4 / pi, "D": 1.0}
# Inches that a letter and a line of the legend take.
_LETTER, _LINE = 0.07, 0.2


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points (x, y) that no other one beats in both, by ascending x.

    Of points that are equal all are kept.
    """

    def beaten(name: str) -> bool:
        x, y = points[name]
        return any(a >= x and b >= y and (a, b) != (x, y) for a, b in points.values())

    return sorted((name for name in points if not beaten(name)), key=lambda name: points[name][0])


def plot_models(result: dict[str, Any], path: Path) -> None:
    """Draw every row whose speed is known; over memory where no quality was measured."""
    draw_models(result).savefig(path, dpi=120)


def draw_models(result: dict[str, Any]) -> Figure:
    """The picture. Names are beside the axes, where they never cover each other or a mark."""
    from matplotlib.figure import Figure

    models = {name: m for name, m in result["models"].items() if _speed(m, result) is not None}
    with_quality = all(model["quality"] for model in models.values())
    height = _quality if with_quality else _megabytes
    points = {name: (_speed(m, result) or 0.0, height(m)) for name, m in models.items()}
    labels = {name: f"{name}, {_megabytes(model):.3g} MB" for name, model in models.items()}
    longest = max(map(len, labels.values()), default=0)
    size = (6.6 + _LETTER * longest, max(4.4, 0.4 + _LINE * len(labels)))
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    if with_quality and points:
        edge = [points[name] for name in frontier(points)]
        axis.plot(*zip(*edge, strict=True), color="0.7", zorder=1)
    _draw_marks(axis, models, points, labels)
    axis.margins(0.2)
    axis.set_xlabel(f"output tokens a second, alone, {result['concurrency']} requests at a time")
    axis.set_ylabel("ROUGE-L (%)" if with_quality else "MB in memory")
    line = "; line: not beaten in both" if with_quality else ""
    axis.set_title(f"areas: bytes in memory{line}", fontsize=10)
    axis.grid(alpha=0.3)
    if labels:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _draw_marks(
    axis: Axes,
    models: Mapping[str, dict[str, Any]],
    points: Mapping[str, tuple[float, float]],
    labels: Mapping[str, str],
) -> None:
    """A model has one colour; its gist is a diamond."""
    from matplotlib import colormaps

    of_model = {name: model.get("model", name) for name, model in models.items()}
    ordered = list(dict.fromkeys(of_model.values()))
    palette = colormaps["tab10" if len(ordered) <= 10 else "tab20"]
    colours = {name: palette(i % palette.N) for i, name in enumerate(ordered)}
    largest = max(map(_megabytes, models.values()), default=0.0) or 1.0
    for name, model in models.items():
        share = _megabytes(model) / largest
        marker = "D" if model.get("gist_slots") else "o"
        unit = _SIZE_OF_AREA[marker]
        style: dict[str, Any] = {"color": colours[of_model[name]], "marker": marker, "alpha": 0.6}
        area = max(_LEAST_AREA, _LARGEST_AREA * share)
        # Small marks lie over large ones, so that none is hidden.
        axis.scatter(*points[name], s=unit * area, zorder=3 - share, **style)
        axis.scatter([], [], s=unit * _LEGEND_AREA, label=labels[name], **style)


def _speed(model: dict[str, Any], result: dict[str, Any]) -> float | None:
    throughput = model["speed"][alone(result["concurrency"])]["output_throughput"]
    return None if throughput is None else float(throughput["median"])


def _quality(model: dict[str, Any]) -> float:
    return 100 * float(model["quality"]["rouge_l"]["mean"])


def _megabytes(model: dict[str, Any]) -> float:
    """Weights in memory, or on disk where the server does not tell, and the prompt's cache."""
    weights = model["weight_bytes"] or model["disk_bytes"] or 0
    return float(weights + model.get("prompt_cache_bytes", 0)) / 1e6
