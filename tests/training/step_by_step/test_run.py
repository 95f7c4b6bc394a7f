"""Whole runs on tiny models: the four arms, what is written, exact resumption, refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from gistserve.training.cli import app
from gistserve.training.config import ConfigError
from gistserve.training.records import DataError
from gistserve.training.step_by_step import train_step_by_step
from gistserve.training.step_by_step.config import StepByStepConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from typer.testing import CliRunner

from .tiny_models import make_tokenizer, save_model, settings

pytest.importorskip("accelerate")
pytest.importorskip("torchmetrics")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for kind in ("llama", "t5"):
        save_model(kind, folder / kind)
    return folder


def results(output: Path) -> dict[str, Any]:
    return json.loads((output / "results.json").read_text())


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return str(path)


def records(count: int, **changes: Any) -> list[dict[str, Any]]:
    whole = {"label": "2 + 3", "llm_label": "2 * 3", "rationale": "Some of the coins are gone"}
    return [{"input": f"Ana has {i % 10} coins"} | whole | changes for i in range(count)]


ARMS = [
    ("llama", "standard", "gold"),
    ("llama", "standard", "teacher"),
    ("llama", "single_task", "gold"),
    ("llama", "step_by_step", "teacher"),
    ("t5", "single_task", "gold"),
    ("t5", "step_by_step", "gold"),
]


@pytest.mark.parametrize(("kind", "method", "labels"), ARMS)
def test_each_arm_learns_its_labels(
    kind: str, method: Any, labels: Any, bases: Path, tmp_path: Path
) -> None:
    """One label, learned by heart: the answers tell which text was learned."""
    data = write(tmp_path / "a.jsonl", records(8))
    config = settings(
        bases / kind, tmp_path / "out", method=method, labels=labels, train_data=data,
        validation_data=data, test_data=data, max_steps=30, eval_steps=30, save_steps=30,
        batch_size=8, learning_rate=1e-2,
    )  # fmt: skip
    folder = train_step_by_step(config)
    accuracy = results(tmp_path / "out")["measures"]["test"]["accuracy"]
    assert accuracy == float(labels == "gold")
    load: Any = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    model, tokenizer = load.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    manifest = json.loads((folder / "manifest.json").read_text())

    def answer(prompt: str) -> str:
        ids = torch.tensor([tokenizer(prompt).input_ids])
        out = model.generate(ids, max_new_tokens=20)[0]
        written = out if kind == "t5" else out[ids.shape[1] :]
        return tokenizer.decode(written, skip_special_tokens=True).strip()

    label = "2 + 3" if labels == "gold" else "2 * 3"
    expected = label
    if method == "single_task":
        expected = f"Some of the coins are gone So the answer is {label}"
    prompt = manifest["prompt"].replace("<input>", "Ana has 4 coins")
    assert prompt.startswith("[label]") == (method == "step_by_step")
    assert prompt.endswith("=>") == (kind == "llama")
    assert answer(prompt) == expected
    if method == "step_by_step":
        assert answer(prompt.replace("label", "rationale")) == "Some of the coins are gone"
    assert manifest["prompt"] in (folder / "README.md").read_text()


def test_missing_rationales_are_counted_and_their_labels_learned(
    bases: Path, tmp_path: Path
) -> None:
    data = records(6) + records(4, rationale="", label="7 - 1") + records(2, llm_label="")
    place = write(tmp_path / "a.jsonl", data)
    config = settings(
        bases / "llama", tmp_path / "out", train_data=place, validation_data=place, max_steps=1
    )
    train_step_by_step(config)
    counted = results(tmp_path / "out")["data"]
    assert counted["without_rationale"] == 4
    assert counted["without_label"] == 0
    train_step_by_step(replace(config, labels="teacher", output_dir=str(tmp_path / "second")))
    assert results(tmp_path / "second")["data"]["without_label"] == 2


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (records(8, rationale=""), {}, r"none of 8 records has a rationale.*train annotate"),
        (records(8, llm_label=""), {"labels": "teacher"}, r"none of 8 records has a label in.*llm"),
        (records(8, llm_label=None, label=None), {}, "neither a label nor a teacher's"),
        (records(8), {"rationale_field": "why"}, "none of 8 records has a rationale in"),
    ],
)  # fmt: skip
def test_data_with_nothing_to_learn(
    data: list[dict[str, Any]], changes: dict[str, Any], message: str, bases: Path, tmp_path: Path
) -> None:
    place = write(tmp_path / "a.jsonl", data)
    config = settings(bases / "llama", tmp_path / "out", train_data=place, validation_data=place)
    with pytest.raises(DataError, match=message):
        train_step_by_step(replace(config, **changes))
    assert not (tmp_path / "out").exists()


def test_plain_training_needs_no_rationales(bases: Path, tmp_path: Path) -> None:
    place = write(tmp_path / "a.jsonl", [{"input": "Ana has 2 coins", "label": "2"}] * 8)
    config = settings(
        bases / "llama", tmp_path / "out", train_data=place, validation_data=None,
        validation_share=0.25, method="standard", max_steps=1, fraction=0.5,
    )  # fmt: skip
    train_step_by_step(config)
    counted = results(tmp_path / "out")["data"]
    assert (counted["examples"], counted["validation"]) == (3, 2)


def test_choices_are_ranked_too(bases: Path, tmp_path: Path) -> None:
    """The right choice is likelier than the other, though the model cannot write it yet."""
    text = "Ana has {} coins\n(a) {}\n(b) {}"
    data = [
        {"input": text.format(i % 10, a, b), "label": "6 - 4", "rationale": "The coins are gone"}
        for i, (a, b) in enumerate([("2 * 3", "6 - 4"), ("6 - 4", "9")] * 4)
    ]
    place = write(tmp_path / "a.jsonl", data)
    config = settings(
        bases / "llama", tmp_path / "out", train_data=place, validation_data=place,
        answers="choices", method="single_task", max_steps=4, learning_rate=1e-2,
    )  # fmt: skip
    train_step_by_step(config)
    measures = results(tmp_path / "out")["measures"]["validation"]
    assert measures["ranked_accuracy"] > measures["accuracy"]
    plain = write(tmp_path / "b.jsonl", records(8))
    with pytest.raises(DataError, match="lists none in lines like"):
        train_step_by_step(
            replace(config, validation_data=plain, output_dir=str(tmp_path / "second"))
        )


def command(config: StepByStepConfig, file: Path, *more: str) -> list[str]:
    file.write_text(yaml.safe_dump(vars(config)))
    program = [sys.executable, "-m", "gistserve.server.cli", "train", "step-by-step"]
    return [*program, "--config", str(file), *more]


def test_a_killed_run_goes_on_to_the_same_weights(bases: Path, tmp_path: Path) -> None:
    place = write(tmp_path / "dev.jsonl", records(8))
    config = settings(
        bases / "llama", tmp_path / "whole", max_steps=10, gradient_accumulation_steps=2,
        batch_size=4, eval_steps=2, save_steps=2, bf16=True, fraction=0.5, validation_data=place,
    )  # fmt: skip
    whole = train_step_by_step(config)

    parts = replace(config, output_dir=str(tmp_path / "parts"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    running = subprocess.Popen(
        command(parts, tmp_path / "parts.yaml"),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    state = tmp_path / "parts/checkpoints/checkpoint-4/trainer_state.json"
    while not state.is_file():
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "parts/model").exists()
    resumed = train_step_by_step(parts, resume=True)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (resumed, whole))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def test_the_best_on_validation_is_kept(bases: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    place = write(tmp_path / "dev.jsonl", records(8, label="( 6.0 - 4.0 )"))
    config = settings(
        bases / "llama", tmp_path, max_steps=12, eval_steps=1, save_steps=12, select_by="loss",
        validation_data=place,
        learning_rate=3e-2, method="standard", tensorboard=True, lr_scheduler="constant",
    )  # fmt: skip
    train_step_by_step(config)
    state = json.loads((tmp_path / "checkpoints/checkpoint-12/trainer_state.json").read_text())
    losses = {row["step"]: row["eval_loss"] for row in state["log_history"] if "eval_loss" in row}
    assert set(losses) == set(range(1, 13))
    found = results(tmp_path)
    assert found["kept_step"] == min(losses, key=lambda step: losses[step])
    kept = losses[found["kept_step"]]
    assert found["measures"]["validation"]["loss"] == pytest.approx(kept, rel=1e-5)
    assert any((tmp_path / "runs").iterdir())


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"model": "/nowhere"}, ConfigError, "cannot be loaded"),
    ({"train_data": "/nowhere.jsonl"}, DataError, "cannot be read"),
    ({"max_target_tokens": 125}, ConfigError, "128 positions"),
    ({"trainer": {"nonsense": 1}}, ConfigError, "trainer: .*nonsense"),
    ({"fraction": 0.0}, ValueError, "fraction must be above 0"),
    ({"rationale_weight": 0.0}, ValueError, "rationale_weight must be above 0"),
    ({"validation_share": 1.0}, ValueError, "between 0 and 1"),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED)
def test_refusals(
    changes: dict[str, Any], error: type[Exception], message: str, bases: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        train_step_by_step(
            settings(changes.pop("model", bases / "llama"), tmp_path / "out", **changes)
        )


def test_the_command(bases: Path, tmp_path: Path) -> None:
    place = write(tmp_path / "dev.jsonl", records(2))
    config = settings(bases / "llama", tmp_path / "out", max_steps=2, validation_data=place)
    words = command(config, tmp_path / "run.yaml")[3:]
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, done.output
    assert f"Wrote {tmp_path / 'out' / 'model'}" in done.output
    assert "[rationale]" in done.output  # a sample of what it writes
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 1
    assert "is not empty" in done.output
    done = CliRunner().invoke(app, [*words[1:], "--resume"])
    assert done.exit_code == 1


def test_the_tokenizer_of_these_tests_gives_texts_back() -> None:
    tokenizer = make_tokenizer()
    for text in ("[label] Ana has 6 coins =>", "So the answer is ( 6.0 - 4.0 )"):
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
