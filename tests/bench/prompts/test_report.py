"""Tables and picture of rounds made by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from gistserve.bench.cli import app
from gistserve.bench.prompts.arm import Arm
from gistserve.bench.prompts.report import arms_table, gist_table, ratio_table, remarks, size
from gistserve.bench.prompts.room import Room
from gistserve.bench.prompts.settings import Labelled, SharedPrefix
from gistserve.bench.prompts.summary import (
    summarise_prompts,
    summarise_quality,
    summarise_shared,
)
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

ROOM = Room(num_blocks=100, block_size=16, slot_bytes=64, max_model_len=1024)
KEPT: dict[str, dict[str, Any] | None] = {
    "none": None,
    "prefix": {"prompt_tokens": 100, "slots": 100, "cache_bytes": 6400},
    "gist": {"prompt_tokens": 100, "slots": 9, "cache_bytes": 576},
}


def cell(throughput: float, ttft: list[float], e2el: list[float]) -> dict[str, Any]:
    return {"output_throughput": throughput, "ttft_ms": ttft, "tpot_ms": [1.0], "e2el_ms": e2el}


def arm(name: str, registration: float, alone: float, many: dict[str, Any]) -> dict[str, Any]:
    """An arm whose requests take `alone` ms each."""
    cells = {"1": cell(1e3 / alone, [alone / 2] * 3, [alone] * 3), "8": many}
    return {"registration_s": registration, "compression": KEPT[name], "cells": cells}


LEFT_OUT = {"left_out": "needs 999 slots"}
# The machine is half as fast in the second round. A prefix saves 10 ms of 20, for 35 ms; a gist
# loses 1 ms against it.
ROUNDS = [
    {
        "64": {
            "none": arm("none", 0.0, 20, LEFT_OUT),
            "prefix": arm("prefix", 0.035, 10, cell(200, [30], [40])),
            "gist": arm("gist", 0.036, 11, cell(320, [20], [30])),
        }
    },
    {
        "64": {
            "none": arm("none", 0.0, 40, LEFT_OUT),
            "prefix": arm("prefix", 0.070, 20, cell(100, [60], [80])),
            "gist": arm("gist", 0.072, 22, cell(150, [40], [60])),
        }
    },
]
SHARED = {
    "registered": {
        name: {"compression": [KEPT[name]] * 4, "registration_s": [1.0] * 4}
        for name in ("prefix", "gist")
    },
    "rounds": [
        {"prefix": cell(100, [10], [20]), "gist": cell(170, [5], [20])},
        {"prefix": cell(50, [20], [40]), "gist": cell(80, [10], [40])},
    ],
}


def result() -> dict[str, Any]:
    arms = list(Arm)
    labelled = [Labelled("p", "a", "one"), Labelled("p", "b", "two")]
    answers = {"none": ["one", "no"], "prefix": ["one", "no"], "gist": ["one", "two"]}
    return {
        "model": {"name": "tiny", "trained": True},
        "arms": [name.value for name in arms],
        "workload": {"concurrencies": [1, 8], "rounds": 2},
        "budget_bytes": 2**20,
        "synthetic": True,
        "prompts": summarise_prompts(ROUNDS, arms, ROOM, 2**20),
        "shared": summarise_shared(SHARED, ROOM, SharedPrefix(prompts=4, requests=2)),
        "quality": summarise_quality(answers, labelled),
    }


def rows(table: Table) -> list[list[str]]:
    columns = [list(column.cells) for column in table.columns]
    return [list(map(str, row)) for row in zip(*columns, strict=True)]


def test_ratios_are_taken_round_by_round() -> None:
    (prompt,) = result()["prompts"]
    prefix, gist = prompt["arms"]["prefix"], prompt["arms"]["gist"]
    assert prompt["prompt_tokens"] == 100
    assert gist["levels"]["8"]["output_throughput_to_prefix"]["rounds"] == [1.6, 1.5]
    assert gist["levels"]["1"]["ttft_ms_to_none"]["rounds"] == pytest.approx([0.55, 0.55])
    assert prompt["arms"]["none"]["levels"]["8"] == LEFT_OUT
    assert gist["levels"]["8"]["output_throughput_to_none"] is None
    assert prefix["break_even"]["none"]["requests"] == 4
    assert prefix["break_even"]["none"]["saved_s"] == pytest.approx(0.015)
    assert gist["break_even"]["none"]["requests_by_round"] == [4, 4]
    assert gist["break_even"]["prefix"]["registration_s"] == pytest.approx(0.0015)
    assert gist["break_even"]["prefix"]["requests"] is None


def test_bytes_are_those_of_whole_blocks() -> None:
    (prompt,) = result()["prompts"]
    prefix, gist = prompt["arms"]["prefix"], prompt["arms"]["gist"]
    assert (prefix["kept_bytes"], gist["kept_bytes"]) == (7 * 16 * 64, 16 * 64)
    assert (prefix["prompts_in_budget"], gist["prompts_in_budget"]) == (146, 1024)
    shared = result()["shared"]
    assert shared["cache_bytes_ratio"] == pytest.approx(100 / 9)
    assert shared["kept_bytes_ratio"] == 7


def test_the_first_table_has_a_row_an_arm() -> None:
    none, prefix, gist = rows(arms_table(result()))
    assert none == ["100", "no cache", "0 B", "-", "-", "15", "37.5", "-", "-"]
    assert prefix == [
        "100",
        "full-prefix cache",
        "7 KiB",
        "146",
        "0.0525",
        "7.5",
        "75",
        "150",
        "4",
    ]
    assert gist[2:5] == ["1 KiB", "1,024", "0.054"]


def test_the_ratios_tell_their_spread_and_never() -> None:
    found = rows(ratio_table(result()))
    assert [row[1] for row in found] == [
        "full-prefix cache / no cache",
        "gist / no cache",
        "gist / full-prefix cache",
    ]
    assert found[2][2:] == ["1.10 (1.10-1.10)", "0.91 (0.91-0.91)", "1.55 (1.50-1.60)", "never"]
    assert found[1][4] == "-"


def test_savings_stand_beside_quality() -> None:
    found = {row[0]: row[1:] for row in rows(gist_table(result()))}
    assert found["output tokens/s"] == ["75", "125", "1.65 (1.60-1.70)"]
    assert found["cache, in whole blocks"] == ["28 KiB", "4 KiB", "7.0 times fewer"]
    assert found["exact match"][:2] == ["50.0% ± 50.0", "100.0% ± 0.0"]
    assert found["same answer as with no cache"][:2] == ["100.0%", "50.0%"]


def test_quality_that_was_not_measured_is_said_so() -> None:
    untrained = result() | {"model": {"trained": False}, "quality": None, "shared": None}
    assert rows(gist_table(untrained)) == [
        ["quality of the gists", "", "not measured: untrained", ""]
    ]
    unasked = untrained | {"model": {"trained": True}}
    assert rows(gist_table(unasked))[0][2] == "not measured: no labelled inputs"


def test_what_was_left_out_is_told_with_the_reason() -> None:
    assert list(remarks(result())) == [
        "100 tokens, no cache, 8 at a time: left out, it needs 999 slots."
    ]


def test_sizes_have_units() -> None:
    assert [size(n) for n in (0, 1023, 1024, 3 * 2**19, 5 * 2**30)] == [
        "0 B",
        "1023 B",
        "1 KiB",
        "1.5 MiB",
        "5 GiB",
    ]


def test_a_file_is_printed_and_drawn_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "prompts.json"
    output.write_text(json.dumps(result()))
    done = CliRunner().invoke(app, ["prompts", "--report", "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert "full-prefix cache" in done.output
    assert output.with_suffix(".png").stat().st_size > 1000
    missing = CliRunner().invoke(app, ["prompts", "--report", "--output", str(tmp_path / "no")])
    assert missing.exit_code == 1
    assert "holds no figures" in missing.output


def test_the_picture_has_a_line_for_all_that_was_measured() -> None:
    pytest.importorskip("matplotlib")
    from gistserve.bench.prompts.plot import draw

    figure = draw(result())
    memory, ttft, alone, together = figure.axes
    lines = [len(axis.containers) for axis in (memory, ttft, alone, together)]
    assert lines == [2, 3, 3, 2]  # nothing is kept without a cache; one was left out
    gist = together.containers[-1]
    assert gist.get_label() == "gist"
    assert list(gist[0].get_xydata()[0]) == [100, 235]


def test_the_report_fits_a_terminal_of_130_columns() -> None:
    console = Console(width=130, record=True)
    for table in (arms_table(result()), ratio_table(result()), gist_table(result())):
        console.print(table)
    assert "…" not in console.export_text()
