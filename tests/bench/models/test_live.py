"""The whole comparison, of two tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from gistserve.bench.cli import app
from gistserve.bench.load.errors import LoadError
from gistserve.bench.models import served
from gistserve.bench.models.contender import disk_bytes, sizes
from gistserve.bench.models.served import serving
from gistserve.server.commands.model_source import ModelSource
from gistserve.server.demo.process import ServerProcessError
from safetensors import safe_open
from typer.testing import CliRunner


def test_sizes_speed_and_quality_of_both_are_told(
    live_server: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("torchmetrics")
    data, output = tmp_path / "test.jsonl", tmp_path / "models.json"
    rows = [{"prompt": f"number {number}", "response": "abc"} for number in range(3)]
    data.write_text("\n".join(map(json.dumps, rows)))
    words = ["models", "--url", live_server, "--output", str(output), "--data", str(data)]
    for name, folder in model_folders.items():
        words += ["--model", f"{name}={folder}"]
    words += ["--rounds", "2", "--requests", "2", "--concurrency", "2", "--max-tokens", "5"]
    words += ["--input-tokens", "20", "--output-tokens", "8"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "2, all" in done.output
    result = json.loads(output.read_text(encoding="utf-8"))
    assert output.with_suffix(".png").stat().st_size > 1000
    assert list(result["models"]) == ["teacher", "student"]
    assert result["server_rss_bytes"] > 1e8
    for name, model in result["models"].items():
        weights = weight_bytes(model_folders[name])
        assert 0 <= model["weight_bytes"] - weights < 100  # the rotary embedding's frequencies
        assert 0 < model["disk_bytes"] - weights < 20_000  # the file's header
        # Two layers, two heads of 8, keys and values in float32.
        assert model["kv_bytes_per_token"] == 2 * 2 * 8 * 2 * 4
        assert model["quality"]["examples"] == 3
        assert list(model["speed"]) == ["alone_1", "alone_2", "together"]
        for arm in model["speed"].values():
            assert len(arm["output_throughput"]["rounds"]) == 2
            assert arm["output_throughput"]["least"] > 0
    for arm in result["models"]["teacher"]["speed"].values():
        assert arm["throughput_ratio"]["rounds"] == [1.0, 1.0]
    assert len(result["rounds"]) == 2
    for found in result["rounds"]:
        assert all(tokens == 8 for tokens in found["alone_2"]["student"]["output_tokens"])


def weight_bytes(folder: Path) -> int:
    total = 0
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118 (not a mapping)
            tensor = weights.get_tensor(name)
            total += tensor.numel() * tensor.element_size()
    return total


def test_a_model_that_is_not_served_is_named(model_folders: dict[str, Path]) -> None:
    sources = [ModelSource("tutor", str(model_folders["teacher"]))]
    with pytest.raises(LoadError, match="'tutor' is not served; there are teacher"):
        sizes({"models": [{"name": "teacher"}]}, sources)
    (found,) = sizes(None, sources).values()
    assert found["disk_bytes"] == disk_bytes(sources[0]) > 0
    assert found["weight_bytes"] is None
    assert disk_bytes(ModelSource("far", "org/far")) is None


def test_one_name_cannot_stand_for_two_models(tmp_path: Path) -> None:
    words = ["models", "--model", "a=org/x", "--model", "a=org/y"]
    done = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "models.json")])
    assert done.exit_code == 1
    assert "Two models have one name" in done.output


class Process:
    """Stands in for the server's process."""

    started: ClassVar[list[Process]] = []
    url = "http://127.0.0.1:1234"

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.arguments = arguments
        self.running = False
        self.started.append(self)

    def __enter__(self) -> Process:
        self.running = True
        return self

    def __exit__(self, *error: Any) -> None:
        self.running = False

    def wait_until_ready(self) -> None:
        if "broken=nowhere" in self.arguments:
            raise ServerProcessError("the server ended while starting: no model")


def test_a_server_is_started_with_all_models_and_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "ServerProcess", Process)
    sources = [ModelSource("a", "org/x"), ModelSource("b", "folder")]
    with serving(sources, None) as url:
        process = Process.started[-1]
        assert (url, process.running) == (Process.url, True)
    assert not process.running
    assert process.arguments[:4] == ["--model", "a=org/x", "--model", "b=folder"]
    with (
        pytest.raises(LoadError, match="no model"),
        serving([ModelSource("broken", "nowhere")], None),
    ):
        raise AssertionError("it never started")


def test_a_server_that_runs_is_used_as_it_is() -> None:
    with serving([], "http://127.0.0.1:9/v1/") as url:
        assert url == "http://127.0.0.1:9"
