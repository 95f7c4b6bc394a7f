"""The whole comparison, of two tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from gistserve.bench import started_server
from gistserve.bench.cli import app
from gistserve.bench.load.errors import LoadError
from gistserve.bench.models.served import ServerSettings, serving
from gistserve.bench.models.sizes import disk_bytes, sizes
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
    assert "prompt MB" not in done.output
    assert all("prompt_cache_bytes" not in model for model in result["models"].values())
    assert result["server_rss_bytes"] > 1e8
    for name, model in result["models"].items():
        weights = weight_bytes(model_folders[name])
        assert 0 <= model["weight_bytes"] - weights < 100  # the rotary embedding's frequencies
        assert 0 < model["disk_bytes"] - weights < 20_000  # the file's header
        assert model["kv_bytes_per_token"] == SLOT
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


SLOT = 2 * 2 * 8 * 2 * 4
"""Bytes of a slot: two layers, two heads of 8, keys and values in float32."""


def test_under_a_prompt_gists_have_rows_of_their_own(
    live_server: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("torchmetrics")
    prompt, data, output = (tmp_path / name for name in ("policy.txt", "t.jsonl", "models.json"))
    prompt.write_text("All that is asked here is answered in letters.")
    data.write_text('{"prompt": "say a", "response": "abc"}')
    words = ["models", "--url", live_server, "--output", str(output), "--data", str(data)]
    for name, folder in model_folders.items():
        words += ["--model", f"{name}={folder}"]
    words += ["--prompt", str(prompt), "--rounds", "1", "--requests", "2", "--concurrency", "2"]
    words += ["--max-tokens", "3", "--input-tokens", "9", "--output-tokens", "3"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "teacher + gist" in done.output
    assert output.with_suffix(".png").stat().st_size > 1000
    result = json.loads(output.read_text(encoding="utf-8"))
    assert result["workload"]["shared_prompts"] == 1
    assert result["workload"]["prompt_files"] == ["policy.txt"]
    # A byte is a token; what follows the prompt begins on a line of its own.
    tokens = len("All that is asked here is answered in letters.\n")
    rows = result["models"]
    assert {name: (row["model"], row["gist_slots"]) for name, row in rows.items()} == {
        "teacher": ("teacher", 0),
        "teacher + gist": ("teacher", 5),
        "student": ("student", 0),
    }
    for row in rows.values():
        assert row["prompt_tokens"] == tokens
        assert row["prompt_cache_bytes"] == SLOT * (row["gist_slots"] or tokens)
        assert row["quality"]["examples"] == 1
        assert list(row["speed"]) == ["alone_1", "alone_2", "together"]
        assert all(arm["throughput_ratio"]["least"] > 0 for arm in row["speed"].values())
    assert rows["teacher"]["weight_bytes"] == rows["teacher + gist"]["weight_bytes"]
    assert httpx.get(f"{live_server}/v1/prompts").json()["data"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gist-adapter", "."], "--gist-adapter compresses a prompt; give one with --prompt"),
        (
            ["--gist-adapter", ".", "--prompt", "PROMPT", "--url", "http://127.0.0.1:9"],
            "http://127.0.0.1:9 runs already: --gist-adapter",
        ),
        (["--prompt-memory", "1MiB", "--url", "http://127.0.0.1:9"], "runs already"),
        (["--kv-cache-memory", "1MiB", "--url", "http://127.0.0.1:9"], "runs already"),
        (
            ["--prompt", "PROMPT", "--model", "a + gist=org/y"],
            "'a + gist' is the row of a with a gist; choose another name",
        ),
        (["--prompt", "EMPTY"], "is empty"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_starts(
    tmp_path: Path, words: list[str], message: str
) -> None:
    for name, text in (("PROMPT", "policy"), ("EMPTY", " ")):
        (tmp_path / name).write_text(text)
    output = str(tmp_path / "models.json")
    files = [str(tmp_path / word) if word in ("PROMPT", "EMPTY") else word for word in words]
    done = CliRunner().invoke(app, ["models", "--model", "a=org/x", "--output", output, *files])
    assert done.exit_code == 1
    assert message in done.output


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
    monkeypatch.setattr(started_server, "ServerProcess", Process)
    sources = [ModelSource("a", "org/x"), ModelSource("b", "folder")]
    with serving(sources, None) as url:
        process = Process.started[-1]
        assert (url, process.running) == (Process.url, True)
    assert not process.running
    assert process.arguments[:4] == ["--model", "a=org/x", "--model", "b=folder"]
    assert len(process.arguments) == 4 + len(["--store", "folder"])
    with (
        pytest.raises(LoadError, match="no model"),
        serving([ModelSource("broken", "nowhere")], None),
    ):
        raise AssertionError("it never started")


def test_a_server_is_told_of_adapters_and_memory() -> None:
    settings = ServerSettings((Path("one"), Path("two")), "2GiB", "1GiB")
    assert settings.arguments([ModelSource("a", "org/x")], Path("store")) == [
        *("--model", "a=org/x", "--gist-adapter", "one", "--gist-adapter", "two"),
        *("--store", "store", "--kv-cache-memory", "2GiB", "--prompt-memory", "1GiB"),
    ]


def test_a_server_that_runs_is_used_as_it_is() -> None:
    with serving([], "http://127.0.0.1:9/v1/") as url:
        assert url == "http://127.0.0.1:9"
