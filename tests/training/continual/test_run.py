"""Whole stages on a tiny model: artifacts, exact resumption, the next stage, refusals."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gistserve.training.cli import app
from gistserve.training.config import ConfigError
from gistserve.training.continual import train_continual
from gistserve.training.continual.source import SourceError
from gistserve.training.continual.stage import Stage
from gistserve.training.continual.tokens import TokenStoreError
from gistserve.training.continual.trainer import TrainingError
from gistserve.training.run_log import read_metrics
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from .texts import LLAMA, make_folder, source, stage_config, word_tokenizer

pytest.importorskip("accelerate")

INFINITE: dict[str, Any] = {"schedule": "infinite", "warmup": 2, "cooldown_end": 5, "anneal": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("continual"))


@pytest.fixture(scope="module")
def first(folder: Path) -> Path:
    """A finished stage on the old texts with an infinite schedule."""
    return train_continual(stage_config(folder, folder / "first", **INFINITE))


def update(folder: Path, output: Path, **changes: Any):
    """Settings of a stage on the new texts with a quarter of old ones."""
    new: dict[str, Any] = {
        "new": [source(folder, "new")],
        "replay": [source(folder, "old")],
        "replay_ratio": 0.25,
    }
    return stage_config(folder, output, **(new | changes))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(folder)]


def test_a_stage_from_scratch(first: Path, folder: Path) -> None:
    stage = Stage.load(first)
    assert stage is not None
    assert (stage.steps, stage.tokens, stage.started_from) == (10, 640, None)
    assert stage.tokens_by_source == {"old": 640}
    assert stage.earlier == []
    model = AutoModelForCausalLM.from_pretrained(first)
    assert stage.parameters == model.num_parameters()
    assert AutoTokenizer.from_pretrained(first).get_vocab() == word_tokenizer().get_vocab()
    rows = read_metrics(first)
    measured = [row["validation"] for row in rows if "validation" in row]
    assert [row["step"] for row in rows if "validation" in row] == [0, 5, 10]
    assert measured[-1]["old"] < measured[0]["old"] - 0.5
    assert measured[-1]["average"] == pytest.approx((measured[-1]["old"] + measured[-1]["new"]) / 2)
    assert measured[-1] == stage.validation
    training = [row for row in rows if "loss" in row]
    assert [row["step"] for row in training] == [2, 4, 6, 8, 10]
    assert training[0]["learning_rate"] == pytest.approx(1e-2)
    assert training[-1]["learning_rate"] == pytest.approx(1e-3)
    assert training[-1]["tokens"] == 640
    assert not list(first.glob("**/*.tmp"))


def test_validation_is_the_mean_loss_of_the_held_out_tokens(first: Path, folder: Path) -> None:
    """The oracle: every held-out document alone through the saved model, cut as rows cut it."""
    model = AutoModelForCausalLM.from_pretrained(first).eval()
    tokenizer = AutoTokenizer.from_pretrained(first)
    texts = [json.loads(line)["text"] for line in (folder / "old-valid.jsonl").open()]
    documents = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in texts]
    config = stage_config(folder, folder / "o", start_from=str(first), max_steps=1, eval_rows=3)
    from gistserve.training.continual.packing import PackedRows
    from gistserve.training.continual.tokens import open_store

    store = open_store(config.validation[0], tokenizer, folder / "tokens", progress=False)
    total, count = 0.0, 0
    for index in range(4):
        for piece in PackedRows(store, 16).row(index):
            ids = documents[piece.document][piece.start : piece.start + len(piece.tokens) + 1]
            if len(ids) > 1:
                logits = model(torch.tensor([ids[:-1]])).logits[0]
                loss = torch.nn.functional.cross_entropy(
                    logits, torch.tensor(ids[1:]), reduction="sum"
                )
                total, count = total + loss.item(), count + len(ids) - 1
    stage = Stage.load(first)
    assert stage is not None
    assert stage.validation["sources"]["old-valid"] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "muon"},
        {"objective": "masked"},
        {"bf16": True, "gradient_checkpointing": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_resumed_stage_equals_an_uninterrupted_one(
    changes: dict, folder: Path, tmp_path: Path
) -> None:
    """With dropout, cut off after the pre-anneal weights; all is compared bit by bit."""
    if changes.get("objective") == "masked":
        sizes = {"model_type": "bert", **{k: v for k, v in LLAMA.items() if "type" not in k}}
        del sizes["attention_dropout"]
        changes = {**changes, "new_model": sizes}
    whole, cut = (
        update(
            folder,
            tmp_path / name,
            **(INFINITE | changes),
        )
        for name in ("whole", "cut")
    )
    train_continual(whole)
    train_continual(cut)
    _forget_all_after(tmp_path / "cut", 4)
    train_continual(cut, resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert same(weights(tmp_path / "whole/pre_anneal"), weights(tmp_path / "cut/pre_anneal"))
    assert lines(tmp_path / "whole") == lines(tmp_path / "cut")


def _forget_all_after(output: Path, step: int) -> None:
    """Leave what a kill would have left: a checkpoint, later log lines, no artifact."""
    for path in (output / "checkpoints").glob("checkpoint-*"):
        if int(path.name.split("-")[1]) > step:
            shutil.rmtree(path)
    shutil.rmtree(output / "pre_anneal")
    for name in ("model.safetensors", "stage.json"):
        (output / name).unlink()


def test_a_stage_killed_at_any_moment_can_be_resumed(folder: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of writing a checkpoint: the half one is not taken for whole."""
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import accelerate
from pathlib import Path
from gistserve.training.continual import train_continual
from texts import stage_config
save = accelerate.Accelerator.save_state
def killed(self, folder, *args, **kwargs):
    if "checkpoint-8" in folder:
        Path(folder).mkdir()
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return save(self, folder, *args, **kwargs)
accelerate.Accelerator.save_state = killed
train_continual(stage_config(Path({str(folder)!r}), Path({str(tmp_path / "cut")!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with pytest.raises(ConfigError, match=r"has not ended .* resume it first"):
        train_continual(update(folder, tmp_path / "next", start_from=str(tmp_path / "cut")))
    train_continual(stage_config(folder, tmp_path / "cut"), resume=True)
    train_continual(stage_config(folder, tmp_path / "whole"))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_the_next_stage_starts_before_the_anneal_without_warming(
    first: Path, folder: Path, tmp_path: Path
) -> None:
    settings = INFINITE | {"logging_steps": 1, "max_steps": 8, "max_grad_norm": 1e-9}
    train_continual(update(folder, tmp_path, start_from=str(first), **settings))
    stage = Stage.load(tmp_path)
    assert stage is not None
    rates = [row["learning_rate"] for row in read_metrics(tmp_path) if "loss" in row]
    assert rates[:5] == pytest.approx([5.5e-3] * 5)
    assert rates[-1] == pytest.approx(1e-3)
    assert [earlier["steps"] for earlier in stage.earlier] == [10]
    assert stage.started_from == str(first)
    assert (stage.pre_anneal, stage.pre_anneal_step) == ("pre_anneal", 5)
    assert stage.tokens_by_source == {"old": 8 * 16, "new": 24 * 16}
    begun = read_metrics(tmp_path)[0]["validation"]["sources"]
    model = Stage.load(first)
    assert model is not None
    assert begun != model.validation["sources"]
    before, after = weights(first / "pre_anneal"), weights(first)
    assert not same(before, after)


def test_start_from_takes_weights_and_nothing_else(
    first: Path, folder: Path, tmp_path: Path
) -> None:
    """The stage's folder and its pre-anneal folder are the same start, with a fresh optimizer."""
    settings = {"max_steps": 3, "schedule": "constant", "warmup": 0}
    train_continual(update(folder, tmp_path / "a", start_from=str(first), **settings))
    train_continual(
        update(folder, tmp_path / "b", start_from=str(first / "pre_anneal"), **settings)
    )
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    with pytest.raises(ConfigError, match="start_from and new_model exclude each other"):
        train_continual(stage_config(folder, tmp_path / "c"), start_from=first)


def test_the_flag_start_from_replaces_the_configurations(
    first: Path, folder: Path, tmp_path: Path
) -> None:
    settings = {"max_steps": 3, "start_from": "/no/such/model"}
    train_continual(update(folder, tmp_path, **settings), start_from=first)
    stage = Stage.load(tmp_path)
    assert stage is not None
    assert stage.started_from == str(first)
    again = update(folder, tmp_path, **settings)
    assert train_continual(again, resume=True) == tmp_path


def test_default_length_is_one_pass_over_the_new_tokens(folder: Path, tmp_path: Path) -> None:
    config = update(folder, tmp_path, max_steps=None)
    tokenizer = word_tokenizer()
    texts = [json.loads(line)["text"] for line in (folder / "new.jsonl").open()]
    new = sum(len(tokenizer(text).input_ids) + 1 for text in texts)
    train_continual(config)
    stage = Stage.load(tmp_path)
    assert stage is not None
    assert stage.steps == -(-new // 64)
    assert stage.tokens_by_source["old"] == (stage.steps * 4 // 4) * 16


def test_tensorboard_and_plot(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("matplotlib")
    train_continual(stage_config(folder, tmp_path, max_steps=2, tensorboard=True, plot=True))
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "runs").glob("events*"))


def test_a_tokenizer_is_trained_where_none_is_given(folder: Path, tmp_path: Path) -> None:
    config = update(
        folder, tmp_path, max_steps=2, new_model=LLAMA, tokenizer=None, vocabulary_size=300
    )
    train_continual(config)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.decode(tokenizer("eins red").input_ids) == "eins red"
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.vocab_size == len(tokenizer) <= 300


def test_without_accelerate(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gistserve.training.continual.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'gistserve\[train\]'"):
        train_continual(stage_config(folder, tmp_path))


def test_a_loss_that_is_no_number(folder: Path, tmp_path: Path) -> None:
    config = stage_config(
        folder, tmp_path, learning_rate=1e30, schedule="constant", warmup=0, max_grad_norm=1e30
    )
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+.*lower learning"):
        train_continual(config)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"start_from": None}, ConfigError, "give one of start_from .* and new_model"),
        ({"start_from": "/no/such/model"}, ConfigError, "no tokenizer can be loaded from"),
        ({"new_model": {"hidden_size": 16}}, ConfigError, "model_type is missing"),
        ({"new_model": LLAMA | {"hiden_size": 1}}, ConfigError, "llama has no hiden_size"),
        ({"new_model": LLAMA | {"num_attention_heads": 3}}, ConfigError, "new_model: "),
        ({"new_model": LLAMA | {"vocab_size": 20}}, ConfigError, "vocabulary does not match"),
        ({"sequence_length": 65}, ConfigError, "more than the model's 64 positions"),
        ({"batch_size": 5}, ConfigError, "batch_size 5 rows cannot be shared by 1 process"),
        ({"objective": "span_corruption"}, ConfigError, "new_model: "),
        ({"new": [{"name": "a", "path": "/none"}]}, SourceError, "/none does not exist"),
        ({"eval_rows": 1, "sequence_length": 64}, None, ""),
    ],
)
def test_what_cannot_be_trained(
    changes: dict, error: type[Exception] | None, message: str, folder: Path, tmp_path: Path
) -> None:
    config = stage_config(folder, tmp_path, **({"max_steps": 1} | changes))
    if error is None:
        train_continual(config)
        return
    with pytest.raises(error, match=message):
        train_continual(config)


def test_a_validation_source_shorter_than_a_row(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("red green")
    short = {"name": "short", "path": str(tmp_path / "short.txt")}
    with pytest.raises(TokenStoreError, match="short has 3 tokens, less than one row of 16"):
        train_continual(stage_config(folder, tmp_path / "o", validation=[short]))


def test_runs_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no checkpoint under"):
        train_continual(stage_config(folder, tmp_path), resume=True)
    train_continual(stage_config(folder, tmp_path, max_steps=2))
    with pytest.raises(ConfigError, match="resume it, or choose another output_dir"):
        train_continual(stage_config(folder, tmp_path, max_steps=2))
    with pytest.raises(ConfigError, match="other settings: learning_rate, seed"):
        other = stage_config(folder, tmp_path, max_steps=2, learning_rate=1.0, seed=3)
        train_continual(other, resume=True)
    with pytest.raises(ConfigError, match="exclude each other"):
        train_continual(
            stage_config(folder, tmp_path, max_steps=2), resume=True, start_from=tmp_path
        )


def test_a_damaged_checkpoint(folder: Path, tmp_path: Path) -> None:
    train_continual(stage_config(folder, tmp_path, max_steps=2))
    (tmp_path / "checkpoints/checkpoint-2/progress.json").write_text("{")
    with pytest.raises(ConfigError, match="checkpoint-2 cannot be resumed from"):
        train_continual(stage_config(folder, tmp_path, max_steps=2), resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"new": []}, "new must name at least one source"),
        ({"replay_ratio": 0.1}, "replay names no source"),
        ({"replay_ratio": 1.0}, "below 1, got 1.0"),
        ({"tokens": 5}, "tokens and max_steps exclude each other"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"vocabulary_size": 500}, "new_model needs one of tokenizer and vocabulary_size"),
        ({"new_model": None}, "tokenizer and vocabulary_size are for new_model"),
        ({"adam_betas": [0.9]}, "adam_betas must be two numbers"),
        ({"objective": "prefix"}, "objective must be 'causal' or 'masked' or 'span_corruption'"),
        ({"corrupted_share": 0}, "corrupted_share must be between 0 and 1"),
    ],
)
def test_settings_that_make_no_sense(
    changes: dict, message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        stage_config(folder, tmp_path, **changes)


def test_shares_for_some_sources_only(folder: Path, tmp_path: Path) -> None:
    new = [source(folder, "old", share=1.0), source(folder, "new")]
    with pytest.raises(ConfigError, match="share must be given for all"):
        train_continual(stage_config(folder, tmp_path, new=new))


def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "stage.yaml"
    path.write_text(
        f"""
output_dir: {tmp_path / "out"}
new: [{{name: old, path: {folder / "old.jsonl"}}}]
new_model: {{model_type: llama, hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1,
  num_attention_heads: 1}}
tokenizer: {folder / "tokenizer"}
token_cache: {folder / "tokens"}
sequence_length: 8
batch_size: 2
micro_batch_size: 2
max_steps: 1
device: cpu
tensorboard: false
plot: false
progress: false
"""
    )
    result = CliRunner().invoke(app, ["continual", "--config", str(path)])
    assert result.exit_code == 0, result.output
    assert f"Wrote {tmp_path / 'out'}" in result.output
    assert "Train the adapter again" in result.output
    result = CliRunner().invoke(app, ["continual", "--config", str(path)])
    assert result.exit_code == 1
    assert "resume it, or choose another output_dir" in result.stderr
    (folder / "broken.jsonl").write_text("{")
    path.write_text(path.read_text().replace("old.jsonl", "broken.jsonl").replace("/out", "/other"))
    result = CliRunner().invoke(app, ["continual", "--config", str(path)])
    assert result.exit_code == 1
    assert "line 1 is not valid JSON" in result.stderr
    assert CliRunner().invoke(app, ["continual"]).exit_code == 1


def test_gradients_do_not_depend_on_the_micro_batch(folder: Path, tmp_path: Path) -> None:
    sizes = {**LLAMA, "attention_dropout": 0.0}
    results = []
    for size in (1, 2, 4):
        output = tmp_path / str(size)
        config = stage_config(folder, output, new_model=sizes, micro_batch_size=size)
        results.append(weights(train_continual(config)))
    for other in results[1:]:
        for name, tensor in results[0].items():
            np.testing.assert_allclose(other[name], tensor, rtol=1e-3, atol=2e-4)
