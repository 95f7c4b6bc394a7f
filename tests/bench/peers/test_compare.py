"""The whole comparison, of fake programs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from gistserve.bench.cli import app
from gistserve.bench.peers import run as module
from gistserve.bench.peers.model_folder import link_without_end, write_random_model
from gistserve.bench.peers.peer import Missing
from transformers import AutoConfig, GenerationConfig
from typer.testing import CliRunner

from .fakes import FakePeer
from .tiny_llama import tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    folder = tmp_path_factory.mktemp("model")
    write_random_model(tiny_llama(eos_token_id=3), torch.float32, folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [3, 4]}', encoding="utf-8")
    return folder


class Ours(FakePeer):
    """Stands in for our own server too."""

    def __init__(self) -> None:
        super().__init__("gistserve")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What looking for the two peers finds; a test may change it."""
    found: dict[str, Any] = {
        "transformers": FakePeer("transformers"),
        "llama.cpp": Missing("llama.cpp", "not found: build it"),
    }
    monkeypatch.setattr(module, "OurServer", Ours)
    monkeypatch.setattr(module, "find_transformers", lambda command: found["transformers"])
    monkeypatch.setattr(module, "find_llama", lambda command: found["llama.cpp"])
    return found


def compare(folder: Path, output: Path, *more: str) -> Any:
    words = ["peers", "--model", str(folder), "--output", str(output), "--threads", "1"]
    words += ["--concurrency", "2", "--concurrency", "1", "--requests", "2", "--rounds", "2"]
    return CliRunner().invoke(app, [*words, "--input-tokens", "8", "--output-tokens", "4", *more])


def test_figures_of_all_that_are_there_are_written(
    folder: Path, tmp_path: Path, fakes: dict[str, Any]
) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "peers.json"
    done = compare(folder, output)
    assert done.exit_code == 0, done.output
    result = json.loads(output.read_text(encoding="utf-8"))
    assert list(result["servers"]) == ["gistserve", "transformers"]
    assert result["servers"]["transformers"]["version"] == "transformers 1.0"
    assert result["servers"]["gistserve"]["peak_rss_bytes"] > 5e6
    assert str(tmp_path) not in json.dumps(result["servers"])
    assert result["missing"] == {"llama.cpp": "not found: build it"}
    assert "llama.cpp takes no part: not found: build it" in done.output
    assert len(result["measurements"]) == 2 * 2
    assert [(e["concurrency"], e["server"]) for e in result["summary"]] == [
        (1, "gistserve"),
        (1, "transformers"),
        (2, "gistserve"),
        (2, "transformers"),
    ]
    assert result["made_by"]["versions"]["torch"]
    picture = output.with_suffix(".png")
    picture.unlink()
    report = ["peers", "--report", "--output", str(output)]
    again = CliRunner().invoke(app, report)
    assert again.exit_code == 0, again.output
    assert "transformers" in again.output
    assert picture.stat().st_size > 1000
    refused = [{"round": 1, "concurrency": 1, "refused": "because"}]
    output.write_text(json.dumps(result | {"measurements": refused, "summary": []}))
    nothing = CliRunner().invoke(app, report)
    assert nothing.exit_code == 1
    assert "round 1, 1 at a time is left out: because" in nothing.output
    assert "every measurement was left out" in nothing.output


def test_a_peer_that_does_not_start_is_left_out_and_one_is_needed(
    folder: Path, tmp_path: Path, fakes: dict[str, Any]
) -> None:
    fakes["transformers"] = FakePeer("transformers", "--refuse-start")
    done = compare(folder, tmp_path / "peers.json")
    assert done.exit_code == 1
    assert "There is no peer to compare with." in done.output
    assert "transformers ended while starting:\nno such model" in done.output
    assert "llama.cpp not found: build it" in done.output


def test_our_own_server_must_start(
    folder: Path, tmp_path: Path, fakes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Ours):
        def __init__(self) -> None:
            FakePeer.__init__(self, "gistserve", "--refuse-start")

    monkeypatch.setattr(module, "OurServer", Broken)
    done = compare(folder, tmp_path / "peers.json")
    assert done.exit_code == 1
    assert "gistserve ended while starting" in done.output


def test_counts_that_differ_are_refused_and_nothing_is_left_running(
    folder: Path, tmp_path: Path, fakes: dict[str, Any]
) -> None:
    fakes["transformers"] = FakePeer("transformers", "--extra-tokens", "1")
    done = compare(folder, tmp_path / "peers.json")
    assert done.exit_code == 1
    assert "transformers counted 8 + 5 tokens" in done.output
    assert not (tmp_path / "peers.json").exists()
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(fakes["transformers"].program[1]) not in processes


def test_a_server_that_hangs_up_unannounced_takes_part(
    folder: Path, tmp_path: Path, fakes: dict[str, Any]
) -> None:
    fakes["transformers"] = FakePeer("transformers", "--hang-up")
    done = compare(folder, tmp_path / "peers.json", "--requests", "20")
    assert done.exit_code == 0, done.output
    assert "left out" not in done.output


def test_a_model_that_cannot_be_written_as_gguf_leaves_its_readers_out(
    folder: Path, tmp_path: Path, fakes: dict[str, Any]
) -> None:
    llama = FakePeer("llama.cpp")
    llama.reads_gguf = True
    fakes["llama.cpp"] = llama
    (tmp_path / "model").mkdir()
    link_without_end(folder, tmp_path / "odd")
    settings = json.loads((tmp_path / "odd" / "config.json").read_text(encoding="utf-8"))
    settings["rope_parameters"] = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    (tmp_path / "odd" / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    done = compare(tmp_path / "odd", tmp_path / "peers.json")
    assert done.exit_code == 0, done.output
    assert "llama.cpp takes no part: Rotary embeddings of type linear" in done.output
    # Converted elsewhere, it can take part.
    gguf = tmp_path / "model.gguf"
    gguf.touch()
    done = compare(tmp_path / "odd", tmp_path / "peers.json", "--gguf", str(gguf))
    result = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))
    assert "llama.cpp" in result["servers"]


def test_the_linked_model_knows_no_end(folder: Path, tmp_path: Path) -> None:
    link_without_end(folder, tmp_path / "linked")
    assert AutoConfig.from_pretrained(folder).eos_token_id == 3
    assert AutoConfig.from_pretrained(tmp_path / "linked").eos_token_id is None
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [3, 4]
    assert GenerationConfig.from_pretrained(tmp_path / "linked").eos_token_id is None
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "linked" / name).resolve() == folder / name


def test_a_folder_without_a_model_is_refused(tmp_path: Path, fakes: dict[str, Any]) -> None:
    done = compare(tmp_path, tmp_path / "peers.json")
    assert done.exit_code == 1
    assert "holds no config.json" in done.output


def test_a_report_of_no_file_is_refused(tmp_path: Path) -> None:
    output = str(tmp_path / "no.json")
    done = CliRunner().invoke(app, ["peers", "--report", "--output", output])
    assert done.exit_code == 1
    assert "no.json" in done.output


def test_a_report_of_a_broken_file_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "cut.json"
    output.write_text('{"summary": [')
    done = CliRunner().invoke(app, ["peers", "--report", "--output", str(output)])
    assert done.exit_code == 1
    assert "cut.json holds no figures" in done.output.replace("\n", " ")
