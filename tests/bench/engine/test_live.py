"""The whole measurement, of a tiny model."""

import json
from pathlib import Path

import pytest
from gistserve.bench.cli import app
from gistserve.bench.engine import measure
from gistserve.bench.engine.machine import Machine
from gistserve.bench.gpu.model_shapes import TINY
from gistserve.bench.gpu.random_models import dense_weight_bytes
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(device: object, dtype: object) -> Machine:
        return Machine(device, dtype, 2**20, 64)  # type: ignore[arg-type]

    monkeypatch.setattr(measure.Machine, "of", of)


def run(words: list[str]) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["engine", *words], env={"COLUMNS": "160"})
    return done.exit_code, done.output


def test_throughput_and_shares_are_told_and_told_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "engine.json"
    words = ["--shape", "tiny", "--batch", "1", "--batch", "3", "--context", "32"]
    words += ["--context", "64", "--most-tokens", "100", "--rounds", "2", "--steps", "4"]
    words += ["--device", "cpu", "--output", str(output)]
    code, text = run(words)
    assert code == 0, text
    assert "batch 3, context 64" in text  # left out
    result = json.loads(output.read_text(encoding="utf-8"))
    rows = result["summary"]["rows"]
    assert [(row["phase"], row["batch"], row["context"]) for row in rows] == [
        (phase, batch, context)
        for batch, context in ((1, 32), (3, 32), (1, 64))
        for phase in ("prefill", "decode")
    ]
    assert result["weight_bytes_a_step"] == pytest.approx(dense_weight_bytes(TINY, 4), rel=0.01)
    assert result["kv_bytes_per_token"] == 2 * 2 * 2 * 16 * 4
    for row in rows:
        assert row["tokens_per_second"]["least"] > 0
        assert row["share_of_bandwidth"]["median"] > 0
    picture = output.with_suffix(".png")
    assert picture.stat().st_size > 1000
    picture.unlink()
    code, text = run(["--report", "--output", str(output)])
    assert code == 0, text
    assert "decode: time of a step" in text
    assert picture.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--context", "40"], "not a multiple of 16"),
        (["--context", "64", "--batch", "2", "--most-tokens", "100"], "--most-tokens"),
        (["--report", "--output", "absent.json"], "absent.json"),
    ],
)
def test_what_cannot_be_measured_is_said(words: list[str], message: str) -> None:
    code, text = run(["--shape", "tiny", *words])
    assert code == 1
    assert message in text
