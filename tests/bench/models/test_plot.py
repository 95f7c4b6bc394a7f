"""The picture of a comparison."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from gistserve.bench.models.plot import draw_models, plot_models
from matplotlib.colors import to_hex
from matplotlib.figure import Figure


def row(speed: float, quality: float | None, **more: Any) -> dict[str, Any]:
    scored = None if quality is None else {"rouge_l": {"mean": quality}}
    return {
        "disk_bytes": 1_100_000,
        "weight_bytes": 1_000_000,
        "speed": {"alone_8": {"output_throughput": {"median": speed}}},
        "quality": scored,
        **more,
    }


def result(models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"concurrency": 8, "models": models}


def rows_with_gists(count: int) -> dict[str, dict[str, Any]]:
    """Models that answer almost alike, each in two rows."""
    rows = {}
    for number in range(count):
        name = f"student-{number}-of-a-long-name"
        speed, quality = 90 + 0.1 * number, 0.12 - 0.001 * number
        full = {"model": name, "gist_slots": 0, "prompt_cache_bytes": 500_000}
        gist = {"model": name, "gist_slots": 5, "prompt_cache_bytes": 20_000}
        rows[name] = row(speed, quality, **full)
        rows[f"{name} + gist"] = row(speed + 5, quality - 0.01, **gist)
    return rows


def marks(figure: Figure) -> list[Any]:
    """Of the rows, not of the legend."""
    return [mark for mark in figure.axes[0].collections if len(mark.get_offsets())]


@pytest.mark.parametrize("count", [1, 6, 14])
def test_no_name_covers_another_one_or_a_mark(count: int) -> None:
    rows = rows_with_gists(count)
    figure = draw_models(result(rows))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    names = legend.get_texts()
    assert [name.get_text().split(",")[0] for name in names] == list(rows)
    boxes = [name.get_window_extent() for name in names]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    axis = figure.axes[0]
    assert not legend.get_window_extent().overlaps(axis.get_tightbbox())
    assert all(figure.bbox.contains(x, y) for box in boxes for x, y in (box.min, box.max))
    assert axis.get_window_extent().width > 300
    assert len(axis.texts) == 0


def test_a_gist_has_its_models_colour_and_a_mark_of_its_own() -> None:
    figure = draw_models(result(rows_with_gists(2)))
    first, first_gist, second, _ = marks(figure)
    colours = [to_hex(mark.get_facecolor()[0]) for mark in (first, first_gist, second)]
    assert colours[0] == colours[1] != colours[2]
    corners = [len(mark.get_paths()[0].vertices) for mark in (first, first_gist)]
    assert corners[0] > corners[1] == 5  # a closed square


def test_areas_are_bytes_of_weights_and_prompt() -> None:
    figure = draw_models(result(rows_with_gists(1)))
    full, gist = (float(mark.get_sizes()[0]) for mark in marks(figure))
    # The size of a circle is that of the square around it.
    assert (gist / full) * (4 / 3.14159265) == pytest.approx(1_020_000 / 1_500_000)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [text.split(", ")[1] for text in texts] == ["1.5 MB", "1.02 MB"]


def test_the_frontier_goes_through_both_kinds() -> None:
    rows = rows_with_gists(1) | {"beaten": row(80, 0.11)}
    (line,) = draw_models(result(rows)).axes[0].lines
    assert line.get_xydata().tolist() == [pytest.approx([90, 12]), pytest.approx([95, 11])]


def test_without_quality_there_is_no_frontier(tmp_path: Path) -> None:
    rows = {"a": row(90, None), "b": row(80, None)}
    figure = draw_models(result(rows))
    assert len(figure.axes[0].lines) == 0
    assert figure.axes[0].get_ylabel() == "MB in memory"
    plot_models(result(rows), tmp_path / "models.png")
    assert (tmp_path / "models.png").stat().st_size > 1000
    unknown = row(1, None) | {"speed": {"alone_8": {"output_throughput": None}}}
    assert draw_models(result({"a": unknown})).legends == []
