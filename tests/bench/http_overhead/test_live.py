"""The whole comparison, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

from gistserve.bench.cli import app
from typer.testing import CliRunner


def test_both_arms_and_health_are_told(
    live_server: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "http.json"
    words = ["http", "--url", live_server, "--model", f"teacher={model_folders['teacher']}"]
    words += ["--concurrency", "3", "--requests", "6", "--rounds", "2", "--health-probes", "4"]
    words += ["--input-tokens", "20", "--output-tokens", "8", "--output", str(output)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "engine driven directly" in done.output
    result = json.loads(output.read_text(encoding="utf-8"))
    assert len(result["rounds"]) == 2
    for found in result["rounds"]:
        for arm in ("direct", "http", "http_competing"):
            assert found[arm]["requests"] == 6
            assert found[arm]["output_tokens"] == 48
            assert found[arm]["processor_seconds"] > 0
        assert found["direct"]["prompt_tokens"] == found["http"]["prompt_tokens"] >= 6 * 20 / 2
    summary = result["summary"]
    for ratio in summary["throughput_ratio"].values():
        assert len(ratio["rounds"]) == 2
        assert 0 < ratio["median"] < 5
    assert {name: len(times) for name, times in result["health_ms"].items()} == {
        "idle": 4,
        "loaded": 4,
    }


def test_another_model_than_the_servers_is_refused(
    live_server: str, model_folders: dict[str, Path]
) -> None:
    words = ["http", "--url", live_server, "--model", f"absent={model_folders['teacher']}"]
    done = CliRunner().invoke(app, [*words, "--requests", "1", "--rounds", "1"])
    assert done.exit_code == 1
    assert "absent" in done.output
