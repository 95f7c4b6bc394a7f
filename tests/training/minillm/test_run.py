"""Whole runs on tiny models: artifacts, exact resumption, refusals."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from gistserve.compress.errors import SparsityError
from gistserve.training.cli import app
from gistserve.training.config import ConfigError
from gistserve.training.continual.source import Source
from gistserve.training.minillm import train_minillm
from gistserve.training.minillm.config import MiniLLMConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from .tiny_run import make_folder, records, settings

pytest.importorskip("accelerate")
pytest.importorskip("torchmetrics")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def taught(folder: Path) -> Path:
    """A teacher that knows the data well."""
    model = {"model": str(folder / "teacher"), "teacher": None, "method": "sft"}
    config = settings(
        folder, folder / "taught", **model, sft_epochs=50, sft_learning_rate=1e-2,
        sft_eval_steps=50, select_by="loss",
    )  # fmt: skip
    return train_minillm(config)


def results(output: Path) -> dict[str, Any]:
    return json.loads((output / "results.json").read_text())


def answer(model: Path, prompt: str) -> str:
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    out = AutoModelForCausalLM.from_pretrained(model).generate(ids, do_sample=False)
    return tokenizer.decode(out[0, ids.shape[1] :])


def test_fine_tuning_learns_and_is_written_whole(taught: Path) -> None:
    found = results(taught.parent)
    assert found["measures"]["validation"]["loss"] < 0.2
    assert answer(taught, "my hat is blue .") == " a blue hat .<end>"
    names = {path.name for path in taught.iterdir()}
    assert {"model.safetensors", "distillation.json", "README.md", "tokenizer.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    card = (taught / "README.md").read_text()
    assert "gistserve serve --model" in card and "<prompt>" in card
    assert json.loads((taught / "distillation.json").read_text()) == found


def with_corpus(tmp_path: Path) -> dict[str, Any]:
    """Settings of minillm's language-modelling loss."""
    text = tmp_path / "corpus.jsonl"
    text.write_text('{"text": "my cat is red . a red cat ."}\n' * 8)
    return {"lm_data": Source(name="corpus", path=str(text)), "lm_weight": 0.1}


def student_weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model" / "model.safetensors")


@pytest.mark.parametrize("method", ["kd", "seqkd", "minillm"])
def test_each_method_comes_near_to_the_teacher(
    method: str, folder: Path, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    changes: dict[str, Any] = {"max_steps": 24, **with_corpus(tmp_path)}
    config = settings(
        folder, output, method=method, teacher=str(taught), sft_epochs=16, tensorboard=True,
        test_data=str(folder / "train.jsonl"), select_by="reverse_kl",
        **(changes if method == "minillm" else {}),
    )  # fmt: skip
    train_minillm(config)
    found = results(output)
    test = found["measures"]["test"]
    assert test["rouge_l"] > 0.5 and test["reverse_kl_per_token"] < 1
    assert found["parameters"] < found["teacher_parameters"]
    assert found["validation"] == found["measures"]["validation"]  # the kept state is written
    assert list((output / "runs").glob("events*"))
    assert "--- validation" in capsys.readouterr().out
    assert {tensor.dtype for tensor in student_weights(output).values()} == {torch.float32}
    if method == "minillm":
        assert found["warm_start"]["steps"] == 48 and found["steps"] == 24
    if method == "seqkd":
        rows = (output / "teacher_responses.jsonl").read_text().splitlines()
        assert len(rows) == 12
        assert sum(row["response"] == pair["response"] for row, pair in learned(rows)) >= 7


def learned(lines: list[str]) -> list[tuple[dict[str, Any], dict[str, str]]]:
    return list(zip(map(json.loads, lines), records(), strict=True))


def test_minillm_may_begin_with_the_model_as_given(
    folder: Path, taught: Path, tmp_path: Path
) -> None:
    config = settings(
        folder, tmp_path, teacher=str(taught), sft_epochs=0, max_steps=2, learning_rate=1e-9
    )
    train_minillm(config)
    given, written = load_file(folder / "student/model.safetensors"), student_weights(tmp_path)
    assert all((written[name] - given[name]).abs().max() < 1e-6 for name in given)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from gistserve.training import accelerate_checkpoints, best
from gistserve.training.minillm import fine_tuning, train_minillm
from tiny_run import settings
calls = 0
def counted(function):
    def replacement(*arguments):
        global calls
        calls += 1
        if calls == {call}:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return replacement
fine_tuning.FineTuner._save = counted(fine_tuning.FineTuner._save)
accelerate_checkpoints.Checkpoints.save = counted(accelerate_checkpoints.Checkpoints.save)
train_minillm(settings(Path({folder!r}), Path({output!r}), **{changes!r}))
"""


def kill_run(folder: Path, output: Path, changes: dict[str, Any], call: int) -> None:
    """Run it in a process that is killed as it begins to write checkpoint number `call`."""
    tests = str(Path(__file__).parent)
    code = KILLED.format(
        tests=tests, folder=str(folder), output=str(output), changes=changes, call=call
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]


@pytest.fixture(scope="module")
def whole(folder: Path, taught: Path) -> Path:
    """A run that nothing interrupted."""
    config = settings(folder, folder / "whole", teacher=str(taught), select_by="reverse_kl")
    return train_minillm(config).parent


@pytest.mark.parametrize("call", [2, 5])
def test_a_killed_run_goes_on_exactly(
    call: int, folder: Path, taught: Path, whole: Path, tmp_path: Path
) -> None:
    """Killed in the warm start (checkpoints at its steps 4, 8, 12), and in the second phase."""
    changes = {"teacher": str(taught), "select_by": "reverse_kl"}
    kill_run(folder, tmp_path, changes, call)
    train_minillm(settings(folder, tmp_path, **changes), resume=True)
    ours, theirs = student_weights(tmp_path), student_weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours_found, theirs_found = results(tmp_path), results(whole)
    for name in ("measures", "kept_step", "steps"):
        assert ours_found[name] == theirs_found[name]


def test_runs_are_not_mixed_or_overwritten(folder: Path, tmp_path: Path) -> None:
    def config(**changes: Any) -> MiniLLMConfig:
        return settings(folder, tmp_path / "run", method="kd", sft_epochs=2, **changes)

    with pytest.raises(ConfigError, match=r"no run under .* to resume"):
        train_minillm(config(), resume=True)
    folder_written = train_minillm(config())
    with pytest.raises(SparsityError, match="not empty"):
        train_minillm(config())
    shutil.rmtree(folder_written)
    with pytest.raises(ConfigError, match="earlier run: resume it"):
        train_minillm(config())
    with pytest.raises(ConfigError, match="other settings: sft_learning_rate"):
        train_minillm(config(sft_learning_rate=1e-4), resume=True)
    assert train_minillm(config(test_samples=3), resume=True) == folder_written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, "method minillm needs a teacher"),
        ({"method": "sft", "sft_epochs": 0}, "sft_epochs must be above 0 for method sft"),
        ({"teacher_mix": 1.0}, "teacher_mix must be at least 0 and below 1, got 1.0"),
        ({"rollouts": 6}, "multiple of minibatch"),
        ({"method": "sft", "teacher": None, "select_by": "reverse_kl"}, "needs a teacher"),
        ({"method": "kd", "lm_data": Source(name="a", path="b")}, "lm_data is for method minillm"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(Path(), Path(), **changes)


def test_the_command_tells_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    values = asdict(settings(folder, tmp_path / "run", train_data="nowhere.jsonl"))
    path.write_text(json.dumps(values))
    done = CliRunner().invoke(app, ["minillm", "--config", str(path)])
    assert done.exit_code == 1
    assert "Error: nowhere.jsonl cannot be read" in done.output
