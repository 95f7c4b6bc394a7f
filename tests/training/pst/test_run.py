"""Whole runs on tiny models: artifacts, exact resumption, refusals."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gistserve.compress.errors import SparsityError
from gistserve.compress.sparse import sparse_modules
from gistserve.training.cli import app
from gistserve.training.config import ConfigError
from gistserve.training.pst import train_pst
from gistserve.training.pst.data import read_data_texts, read_labelled
from gistserve.training.pst.evaluation import generate_texts
from gistserve.training.records import DataError
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from typer.testing import CliRunner

from .tiny_models import make_tokenizer, save_model, settings

pytest.importorskip("accelerate")
pytest.importorskip("sacrebleu")

LOADERS: dict[str, Any] = {
    "bert": AutoModelForSequenceClassification,
    "gpt2": AutoModelForCausalLM,
    "llama": AutoModelForCausalLM,
    "t5": AutoModelForSeq2SeqLM,
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for kind in LOADERS:
        save_model(kind, folder / kind)
    return folder


def results(output: Path) -> dict[str, Any]:
    return json.loads((output / "results.json").read_text())


def load(kind: str, folder: Path) -> PreTrainedModel:
    return LOADERS[kind].from_pretrained(folder).eval()


def accuracy(folder: Path, place: str) -> float:
    """Of the model as loaded, text by text."""
    model, tokenizer = load("bert", folder), AutoTokenizer.from_pretrained(folder)
    texts = read_labelled(place)
    right = 0
    for text in texts:
        ids = [tokenizer.eos_token_id, *tokenizer(text.text).input_ids]
        with torch.no_grad():
            best = int(model(torch.tensor([ids])).logits.argmax())
        right += model.config.id2label[best] == text.label
    return right / len(texts)


@pytest.mark.parametrize("method", ["pst", "movement", "magnitude", "dense"])
def test_classification_is_learned_and_written_sparse(
    method: str, bases: Path, tmp_path: Path
) -> None:
    test = "example:reviews:test"
    # The base is random, so that the baselines have to learn the words too.
    words = ["word_embeddings.weight"] if method in ("movement", "magnitude") else []
    config = settings(
        bases / "bert", "bert", tmp_path, method=method, sparsity=0.8, max_steps=60, eval_steps=20,
        save_steps=60, test_data=test, batch_size=32, warmup=10, measure_memory=True,
        also_train=words,
    )  # fmt: skip
    folder = train_pst(config)
    found = results(tmp_path)
    assert found["measures"]["test"]["accuracy"] > 0.8
    assert found["kept_step"] in (20, 40, 60) if method == "dense" else found["kept_step"] == 60
    model = load("bert", folder)
    assert accuracy(folder, test) == pytest.approx(found["measures"]["test"]["accuracy"])
    sparse = sparse_modules(model)
    if method == "dense":
        assert not sparse
        return
    assert len(sparse) == 12  # six in each of two layers
    assert found["sparsity"] == pytest.approx(0.8, abs=1e-3)
    for module in sparse.values():
        kept = round(0.2 * module.in_features * module.out_features)
        assert (module.weight != 0).sum() == kept
    stored = load_file(folder / "model.safetensors")
    assert not any(name.endswith("query.weight") for name in stored)
    card = (folder / "README.md").read_text()
    assert method in card and "80.0% sparse" in card


def test_pst_trains_little_and_leaves_the_rest_alone(bases: Path, tmp_path: Path) -> None:
    folder = train_pst(settings(bases / "bert", "bert", tmp_path, sparsity=0.5))
    found = results(tmp_path)
    # Two layers: query, key, value, output 32 x 32, feed-forward 64 x 32 and 32 x 64.
    low_rank = 2 * (4 * (16 + 1) * 64 + 2 * (16 + 1) * 96)
    head = 2 * 32 + 2 + 32 * 32 + 32  # the classifier, and the pooler that the base is without
    assert found["trained_parameters"] == low_rank + head
    pruned = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    assert found["pruned_parameters"] == pruned
    assert found["trained_share_of_weights_and_scores"] == pytest.approx(
        (low_rank + head) / (found["model_parameters"] + pruned)
    )
    base = load_file(bases / "bert" / "model.safetensors")
    stored = load_file(folder / "model.safetensors")
    dense = [name for name in base if f"bert.{name}" in stored]
    assert len(dense) == len(base) - 12
    for name in dense:
        assert torch.equal(stored[f"bert.{name}"], base[name]), name


def test_also_train_lets_more_move(bases: Path, tmp_path: Path) -> None:
    config = settings(bases / "bert", "bert", tmp_path, also_train=["query.bias"], sparsity=0.5)
    stored = load_file(train_pst(config) / "model.safetensors")
    base = load_file(bases / "bert" / "model.safetensors")
    for name in base:
        moved = name.endswith("query.bias")
        if f"bert.{name}" in stored:
            assert torch.equal(stored[f"bert.{name}"], base[name]) != moved, name


@pytest.mark.parametrize(
    ("kind", "pattern", "sparsity"),
    [("gpt2", "unstructured", 0.9), ("llama", "balanced", 0.75), ("t5", "2:4", 0.5)],
)
def test_written_models_answer_as_they_were_measured(
    kind: str, pattern: str, sparsity: float, bases: Path, tmp_path: Path
) -> None:
    config = settings(
        bases / kind, kind, tmp_path, pattern=pattern, sparsity=sparsity,
        test_data="example:weather:test", max_steps=40, eval_steps=40, save_steps=40,
        select_by="loss", label_smoothing=0.1, warmup=4, learning_rate=1e-2,
    )  # fmt: skip
    folder = train_pst(config)
    found = results(tmp_path)
    texts = read_data_texts("example:weather:test")
    answers = generate_texts(
        load(kind, folder), AutoTokenizer.from_pretrained(folder), [t.source for t in texts],
        causal=kind != "t5", max_new_tokens=24, batch_size=16,
    )  # fmt: skip
    from gistserve.training.pst.evaluation import score_texts

    measures = found["measures"]["test"]
    assert score_texts(answers, texts) == pytest.approx(
        {name: measures[name] for name in ("bleu", "rouge_l")}
    )
    assert measures["rouge_l"] > 0.3
    modules = sparse_modules(load(kind, folder))
    assert len(modules) == {"gpt2": 8, "llama": 14, "t5": 2 * 6 + 2 * 10}[kind]
    for module in modules.values():
        weight = module.weight
        if pattern == "2:4":
            assert ((weight.reshape(-1, 4) != 0).sum(1) <= 2).all()
        if pattern == "balanced":
            assert ((weight != 0).sum(1) <= round(0.25 * weight.shape[1])).all()


def test_frozen_weights_in_bfloat16(bases: Path, tmp_path: Path) -> None:
    config = settings(
        bases / "bert", "bert", tmp_path, dtype="bfloat16", bf16=True, also_train=["query.bias"],
        test_data="example:reviews:test", max_steps=60, eval_steps=30, save_steps=60,
        batch_size=32, warmup=10,
    )  # fmt: skip
    folder = train_pst(config)
    state = load_file(tmp_path / "checkpoints/checkpoint-60/pst_state.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.uint8}
    stored = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16, torch.uint8}
    measured = results(tmp_path)["measures"]["test"]["accuracy"]
    assert measured > 0.65
    assert accuracy(folder, "example:reviews:test") == pytest.approx(measured, abs=0.02)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from transformers import TrainerState
from gistserve.training.pst import train_pst
from gistserve.training.pst.config import PSTConfig
save = TrainerState.save_to_json
def killed(self, path):
    if self.global_step == 8:
        Path(path).write_text('{{"global_step": ')
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, path)
TrainerState.save_to_json = killed
train_pst(PSTConfig(**{settings!r}))
"""


@pytest.mark.parametrize("method", ["pst", "movement"])
def test_a_run_that_was_killed_and_resumed_equals_an_uninterrupted_one(
    method: str, bases: Path, tmp_path: Path
) -> None:
    """SIGKILL while the second checkpoint is written; the first is gone on from."""
    config = settings(
        bases / "bert", "bert", tmp_path / "whole", method=method, max_steps=12, save_steps=4,
        gradient_accumulation_steps=2, batch_size=8, bf16=True,
    )  # fmt: skip
    whole = train_pst(config)
    parts = replace(config, output_dir=str(tmp_path / "parts"))
    code = KILLED.format(tests=str(Path(__file__).parent), settings=asdict(parts))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr
    resumed = train_pst(parts, resume=True)
    ours, theirs = (load_file(f / "model.safetensors") for f in (resumed, whole))
    assert ours.keys() == theirs.keys()
    assert any(name.endswith("weight_bitmap") for name in ours)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def test_the_best_of_the_final_sparsity_is_kept(bases: Path, tmp_path: Path) -> None:
    """Steps before the final sparsity do not count, however well they do."""
    config = settings(
        bases / "bert", "bert", tmp_path, max_steps=10, eval_steps=1, save_steps=10, seed=3,
        tensorboard=True, learning_rate=2e-2,
    )  # fmt: skip
    pytest.importorskip("tensorboard")
    train_pst(config)
    state = json.loads((tmp_path / "checkpoints/checkpoint-10/trainer_state.json").read_text())
    scores = {
        row["step"]: row["eval_accuracy"] for row in state["log_history"] if "eval_accuracy" in row
    }
    assert set(scores) == set(range(1, 11))
    final = {step: score for step, score in scores.items() if step >= 7}
    kept = results(tmp_path)["kept_step"]
    assert kept == min(step for step in final if final[step] == max(final.values()))
    assert any((tmp_path / "runs").iterdir())


REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("bert", {"layers": ["qery"]}, SparsityError, "'qery' matches no linear layer.*self.query"),
    ("bert", {"layers": ["classifier"]}, SparsityError, "matches no linear layer"),
    ("bert", {"pattern": "2:4", "sparsity": 0.9}, SparsityError, "sparsity of 0.5"),
    ("bert", {"sparsity": 1.0}, SparsityError, "less than 1"),
    ("bert", {"pattern": "balanced", "sparsity": 0.99}, SparsityError, "nothing of 32"),
    ("bert", {"also_train": ["nothing"]}, ConfigError, "no parameter's name ends in"),
    ("bert", {"method": "dense", "also_train": ["bias"]}, ValueError, "dense trains all"),
    ("bert", {"model": "/nowhere"}, ConfigError, "cannot be loaded"),
    ("bert", {"task": "seq2seq"}, DataError, "needs mr and ref"),
    ("bert", {"train_data": "/nowhere.jsonl"}, DataError, "cannot be read"),
    ("bert", {"max_new_tokens": 0}, ValueError, "at least 1"),
    ("bert", {"method": "movement", "dtype": "bfloat16"}, ValueError, "bfloat16 loses small"),
    ("bert", {"dtype": "bfloat16"}, ValueError, "is for bf16: true"),
    ("bert", {"initial_sparsity": 0.8}, ValueError, "between 0 and sparsity"),
    ("bert", {"sparsity_warmup": 0.8}, ValueError, "together at most 1"),
    ("gpt2", {"max_new_tokens": 64}, ConfigError, "64 positions"),
]


@pytest.mark.parametrize(
    ("kind", "changes", "error", "message"), REFUSED, ids=[str(case[1]) for case in REFUSED]
)
def test_refusals(
    kind: str,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    bases: Path,
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    with pytest.raises(error, match=message):
        train_pst(settings(changes.pop("model", bases / kind), kind, output, **changes))
    assert not output.exists() or not any(output.iterdir())


def test_labels_must_be_known(bases: Path, tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text('{"text": "a", "label": "mixed"}\n')
    config = settings(bases / "bert", "bert", tmp_path / "out")
    with pytest.raises(DataError, match="label 'mixed', but the labels are 'negative', 'positive'"):
        train_pst(replace(config, validation_data=str(tmp_path / "dev.jsonl")))
    classifier = train_pst(replace(config, method="dense", max_steps=1))
    lines = ['{"text": "a", "label": "up"}\n', '{"text": "b", "label": "down"}\n']
    (tmp_path / "other.jsonl").write_text("".join(lines))
    other = replace(
        config, model=str(classifier), train_data=str(tmp_path / "other.jsonl"),
        validation_data=str(tmp_path / "other.jsonl"), output_dir=str(tmp_path / "second"),
    )  # fmt: skip
    with pytest.raises(DataError, match=r"classifies by 'negative', 'positive'.*'down', 'up'"):
        train_pst(other)


def test_empty_data_is_refused(bases: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no example"):
        train_pst(
            settings(bases / "bert", "bert", tmp_path / "out",
                     train_data=str(tmp_path / "empty.jsonl"))
        )  # fmt: skip


def test_runs_do_not_overwrite_each_other(bases: Path, tmp_path: Path) -> None:
    config = settings(bases / "bert", "bert", tmp_path)
    with pytest.raises(ConfigError, match="no checkpoint under"):
        train_pst(config, resume=True)
    folder = train_pst(config)
    with pytest.raises(SparsityError, match="is not empty"):
        train_pst(config)
    shutil.rmtree(folder)
    with pytest.raises(ConfigError, match="holds checkpoints of an earlier run"):
        train_pst(config)
    with pytest.raises(ConfigError, match="started with other settings: sparsity"):
        train_pst(replace(config, sparsity=0.6), resume=True)


def test_the_command(bases: Path, tmp_path: Path) -> None:
    config = tmp_path / "pst.yaml"
    config.write_text(
        f"model: {bases / 'bert'}\ntask: classification\ntrain_data: example:reviews:train\n"
        f"output_dir: {tmp_path / 'out'}\nsparsity: 0.75\npattern: '2:4'\n"
    )
    done = CliRunner().invoke(app, ["pst", "--config", str(config)])
    assert done.exit_code == 1
    assert "2:4 has a sparsity of 0.5, got 0.75" in done.output
    text = config.read_text().replace("0.75", "0.5")
    config.write_text(
        text + "max_steps: 4\nattn_implementation: eager\ntensorboard: false\ndevice: cpu\n"
    )
    done = CliRunner().invoke(app, ["pst", "--config", str(config)])
    assert done.exit_code == 0, done.output
    assert f"Wrote {tmp_path / 'out' / 'model'}" in done.output


def test_the_tokenizer_of_these_tests_gives_texts_back() -> None:
    tokenizer = make_tokenizer()
    for text in read_data_texts("example:weather:test"):
        ids = tokenizer(f"{text.source} => {text.references[0]}").input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == f"{text.source} => {text.references[0]}"
