"""Rounds made by hand in one row a model, and the frontier."""

from typing import Any

import pytest
from gistserve.bench.models.plot import frontier
from gistserve.bench.models.summary import summarise
from hypothesis import given
from hypothesis import strategies as st


def figures(throughput: float | None, ttft: list[float], tpot: list[float]) -> dict[str, Any]:
    return {"output_throughput": throughput, "ttft_ms": ttft, "tpot_ms": tpot}


# The machine is half as fast in the second round; the student comes first in it.
ROUNDS = [
    {"alone_1": {"teacher": figures(100, [9, 10, 50], [4]), "student": figures(150, [5], [2])}},
    {"alone_1": {"student": figures(80, [20], [8]), "teacher": figures(50, [25], [6])}},
    {"alone_1": {"teacher": figures(90, [12], []), "student": figures(180, [6], [])}},
]


def test_ratios_are_taken_round_by_round() -> None:
    found = summarise(ROUNDS, ["teacher", "student"])
    assert list(found) == ["teacher", "student"]
    teacher, student = found["teacher"]["alone_1"], found["student"]["alone_1"]
    assert teacher["throughput_ratio"]["rounds"] == [1.0, 1.0, 1.0]
    assert student["throughput_ratio"]["rounds"] == [1.5, 1.6, 2.0]
    assert student["throughput_ratio"]["median"] == 1.6
    assert (student["throughput_ratio"]["least"], student["throughput_ratio"]["greatest"]) == (
        1.5,
        2.0,
    )
    assert student["ttft_ratio"]["rounds"] == [0.5, 0.8, 0.5]
    assert teacher["ttft_ms"]["rounds"] == [10, 25, 12]
    assert teacher["output_throughput"]["median"] == 90
    assert student["tpot_ms"]["rounds"] == [2, 8]


def test_unknown_throughput_stays_unknown() -> None:
    rounds = [{"alone_1": {"teacher": figures(None, [9], []), "student": figures(None, [3], [])}}]
    row = summarise(rounds, ["teacher", "student"])["student"]["alone_1"]
    assert row["output_throughput"] is row["throughput_ratio"] is row["tpot_ms"] is None
    assert row["ttft_ratio"]["median"] == pytest.approx(1 / 3)


POINTS = st.dictionaries(st.text(max_size=3), st.tuples(st.integers(0, 6), st.integers(0, 6)))


@given(POINTS)
def test_the_frontier_holds_whom_nobody_beats(points: dict[str, tuple[int, int]]) -> None:
    edge = frontier(points)
    for name, (x, y) in points.items():
        better = [
            other for other, (a, b) in points.items() if (a >= x and b > y) or (a > x and b >= y)
        ]
        assert (name in edge) == (not better)
    assert [points[name][0] for name in edge] == sorted(points[name][0] for name in edge)
    heights = [points[name][1] for name in edge]
    assert heights == sorted(heights, reverse=True)
