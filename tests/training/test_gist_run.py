"""Whole training runs on a tiny model: artifacts, exact resumption, refusals."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gistserve.compress.adapter import GistAdapter
from gistserve.compress.fingerprint import model_fingerprint
from gistserve.training.cli import app
from gistserve.training.config import ConfigError
from gistserve.training.gist import train_gist
from gistserve.training.gist.config import GistTrainingConfig
from gistserve.training.gist.data import Limits, load_examples
from gistserve.training.gist.evaluation import evaluate_gist
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from .tiny_run import colour_records, make_model_folder, write_data

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gist")
    make_model_folder(folder / "model")
    write_data(folder / "train.jsonl", colour_records())
    write_data(folder / "eval.jsonl", colour_records(3))
    return folder


def settings(folder: Path, output: Path, **changes) -> GistTrainingConfig:
    config = GistTrainingConfig(
        model=str(folder / "model"),
        train_data=str(folder / "train.jsonl"),
        output_dir=str(output),
        num_gist_tokens=2,
        lora_rank=4,
        lm_weight=0.5,
        learning_rate=5e-3,
        max_steps=8,
        batch_size=3,
        save_steps=4,
        logging_steps=2,
        device="cpu",
        tensorboard=False,
        trainer={"disable_tqdm": True},
    )
    return replace(config, **changes)


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    return dict(GistAdapter.load(folder).named_parameters())


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def base_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "model").iterdir())}


def test_a_run_gives_a_servable_adapter(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    before = base_files(folder)
    config = settings(
        folder,
        tmp_path,
        eval_data=str(folder / "eval.jsonl"),
        eval_steps=4,
        eval_generate=True,
        max_steps=30,
        tensorboard=True,
    )
    assert train_gist(config) == tmp_path
    assert base_files(folder) == before
    adapter = GistAdapter.load(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert adapter.config.base_fingerprint == model_fingerprint(model, tokenizer)
    assert adapter.config.training["steps"] == 30
    metrics = adapter.config.metrics
    assert metrics["gist"]["recovered_fraction"] > 0.3 > metrics["none"]["recovered_fraction"]
    examples = load_examples(folder / "eval.jsonl", tokenizer, Limits(64, 2))
    again = evaluate_gist(model, tokenizer, adapter, examples)["gist"]
    assert again["kl_mean"] == pytest.approx(metrics["gist"]["kl_mean"], abs=1e-4)
    assert again["exact_match"] == metrics["gist"]["exact_match"]
    history = json.loads((tmp_path / "checkpoints/checkpoint-28/trainer_state.json").read_text())
    losses = [entry for entry in history["log_history"] if "eval_loss" in entry]
    assert losses[-1]["eval_loss"] < losses[0]["eval_loss"]
    assert "eval_gist_exact_match" in losses[-1]
    logged = next(entry for entry in history["log_history"] if "distill" in entry)
    assert logged["loss"] == pytest.approx(logged["distill"] + 0.5 * logged["lm"], rel=1e-3)
    assert list((tmp_path / "runs").glob("events*"))
    served = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert served == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "gist_config.json",
        "gist_embeddings.safetensors",
    }


@pytest.mark.parametrize("form", ["two_pass", "masked"])
def test_a_resumed_run_equals_an_uninterrupted_one(form: str, folder: Path, tmp_path: Path) -> None:
    """Cut off in the middle of an epoch (of four steps), so the data's order counts too."""
    changes = {"form": form, "save_steps": 3, "save_total_limit": 9}
    whole, cut = (settings(folder, tmp_path / n, **changes) for n in ("whole", "cut"))
    train_gist(whole)
    train_gist(cut)
    for name in ("checkpoint-6", "checkpoint-8"):
        shutil.rmtree(tmp_path / "cut/checkpoints" / name)
    for path in (tmp_path / "cut").rglob("*.safetensors"):
        if "checkpoint-3" not in path.parts:
            path.unlink()
    train_gist(cut, resume=True)
    inner = "" if form == "two_pass" else "gist_adapter"
    one, two = (parameters(tmp_path / n / inner) for n in ("whole", "cut"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    if form == "masked":
        assert weights(tmp_path / "whole") == weights(tmp_path / "cut")
    else:
        early = parameters(tmp_path / "cut/checkpoints/checkpoint-3")
        assert not torch.equal(early["gist_embeddings"], two["gist_embeddings"])


def test_accumulated_steps_equal_one_large_batch(folder: Path, tmp_path: Path) -> None:
    """Sets of unequal numbers of answer tokens must not be weighted by batch."""
    large = settings(folder, tmp_path / "large", batch_size=12, max_steps=2)
    small = settings(
        folder, tmp_path / "small", batch_size=4, gradient_accumulation_steps=3, max_steps=2
    )
    one, two = (parameters(train_gist(config)) for config in (large, small))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-5, rtol=1e-3)


def test_masked_form_gives_a_model_folder_with_an_adapter(folder: Path, tmp_path: Path) -> None:
    config = settings(
        folder, tmp_path, form="masked", max_steps=40, eval_data=str(folder / "eval.jsonl")
    )
    train_gist(config)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    adapter = GistAdapter.load(tmp_path / "gist_adapter")
    token = tokenizer.convert_tokens_to_ids("<GIST>")
    row = model.get_input_embeddings().weight[token]
    assert torch.equal(adapter.gist_embeddings, row.expand(2, -1))
    assert (adapter.config.sink_tokens, len(adapter.loras)) == (0, 0)
    assert adapter.config.base_fingerprint == model_fingerprint(model, tokenizer)
    examples = load_examples(folder / "eval.jsonl", tokenizer, Limits(64, 2))
    report = evaluate_gist(model, tokenizer, adapter, examples, arms=("gist", "none"))
    assert report["gist"]["nll"] < report["none"]["nll"] - 0.3
    logged = adapter.config.metrics["gist"]["nll"]
    assert report["gist"]["nll"] == pytest.approx(logged, abs=1e-4)


@pytest.mark.parametrize("condition", ["positive", "negative"])
def test_controls_run(condition: str, folder: Path, tmp_path: Path) -> None:
    config = settings(folder, tmp_path, form="masked", condition=condition, max_steps=2)
    train_gist(config)
    assert (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / "gist_adapter").exists()


def test_start_from_takes_over_the_values(folder: Path, tmp_path: Path) -> None:
    first = train_gist(settings(folder, tmp_path / "first"))
    config = settings(folder, tmp_path / "second", learning_rate=1e-12, max_steps=1)
    second = train_gist(config, start_from=first)
    one, two = parameters(first), parameters(second)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-6, rtol=1e-5)
    other = settings(folder, tmp_path / "third", num_gist_tokens=3)
    with pytest.raises(ConfigError, match="num_gist_tokens is 2"):
        train_gist(other, start_from=first)


def test_runs_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    config = settings(folder, tmp_path / "run", max_steps=1, save_steps=1)
    with pytest.raises(ConfigError, match="no checkpoint"):
        train_gist(config, resume=True)
    with pytest.raises(ConfigError, match="exclude each other"):
        train_gist(config, resume=True, start_from=tmp_path)
    train_gist(config)
    with pytest.raises(ConfigError, match="resume it, or choose another"):
        train_gist(config)
    with pytest.raises(ConfigError, match="other settings: learning_rate"):
        train_gist(replace(config, learning_rate=1.0), resume=True)


def test_bad_settings_are_named(folder: Path, tmp_path: Path) -> None:
    def run(**changes) -> None:
        train_gist(settings(folder, tmp_path, **changes))

    with pytest.raises(ConfigError, match="nothing-here"):
        run(model=str(tmp_path / "nothing-here"))
    with pytest.raises(ConfigError, match="gradient_checkpointing"):
        run(trainer={"gradient_checkpointing": True})
    with pytest.raises(ConfigError, match="no_such_setting"):
        run(trainer={"no_such_setting": True})
    with pytest.raises(ConfigError, match="sink_tokens is 9"):
        run(sink_tokens=9)
    with pytest.raises(ConfigError, match="form masked"):
        train_gist(settings(folder, tmp_path, form="masked"), start_from=tmp_path)


def test_the_command_line_says_what_is_wrong_in_one_line(folder: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["gist", *arguments])

    path = tmp_path / "gist.yaml"
    path.write_text(f"model: {folder / 'model'}\ntrain_data: nowhere.jsonl\n")
    result = run("--config", str(path))
    assert (result.exit_code, "output_dir is missing" in result.stderr) == (1, True)
    path.write_text(path.read_text() + f"output_dir: {tmp_path / 'out'}\ntensorboard: false\n")
    result = run("--config", str(path))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "nowhere.jsonl cannot be read" in result.stderr
    text = path.read_text().replace("nowhere.jsonl", str(folder / "train.jsonl"))
    path.write_text(text + "max_steps: 1\nlora_rank: 2\ndevice: cpu\n")
    result = run("--config", str(path))
    assert result.exit_code == 0, result.stderr
    assert GistAdapter.load(tmp_path / "out").config.num_gist_tokens == 8
    result = run("--config", str(path), "--resume", "--start-from", str(tmp_path / "out"))
    assert (result.exit_code, "exclude each other" in result.stderr) == (1, True)
