"""`gistserve compress sparse`, as a user calls it."""

import json
import re
from pathlib import Path

import pytest
import torch
from gistserve.compress.sparse import calibration_tokens, sparse_modules, sparsify
from gistserve.server.cli import app
from gistserve.server.engine.loader import load_model
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from ...chat_model import byte_tokenizer
from ...families import tiny_model


def run(*arguments: object) -> Result:
    words = ["compress", "sparse", *map(str, arguments), "--device", "cpu"]
    return CliRunner().invoke(app, words, env={"COLUMNS": "200"})


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("The quick brown fox jumps over the lazy dog. " * 20)
    return file


def pruned_layers(folder: Path) -> dict[str, torch.Tensor]:
    model, _ = load_model(folder, device="cpu")
    return {name: module.weight for name, module in sparse_modules(model).items()}


def test_by_magnitude(chat_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("--model", chat_model, "--sparsity", 0.9, "--out", out)
    assert done.exit_code == 0, done.output
    facts = json.loads((out / "sparsity.json").read_text())
    said = f"{facts['dense_bytes']:,} bytes dense, {facts['tensor_bytes']:,} sparse"
    assert said in done.stdout and f"Wrote {out}" in done.stdout.replace("\n", "")
    assert facts["base_model"] == "tiny"
    assert str(tmp_path) not in (out / "README.md").read_text()

    twin = AutoModelForCausalLM.from_pretrained(chat_model)
    sparsify(twin, sparsity=0.9)
    for name, weight in pruned_layers(out).items():
        assert torch.equal(weight, twin.get_submodule(name).weight)
    assert load_model(out, device="cpu")[1].chat_template == byte_tokenizer().chat_template


def test_by_wanda(chat_model: Path, tmp_path: Path, text: Path) -> None:
    out = tmp_path / "out"
    options = {
        "--method": "wanda",
        "--calibration": text,
        "--calibration-samples": 4,
        "--calibration-length": 32,
        "--pattern": "balanced",
        "--dtype": "bfloat16",
        "--skip": "o_proj",
    }
    words = [word for option in options.items() for word in option]
    done = run("--model", chat_model, "--sparsity", 0.75, "--out", out, *words)
    assert done.exit_code == 0, done.output
    facts = json.loads((out / "sparsity.json").read_text())
    assert (facts["method"], facts["pattern"], facts["sparsity"]) == ("wanda", "balanced", 0.75)
    assert (facts["calibration_samples"], facts["calibration_length"]) == (4, 32)
    assert facts["calibration_file"] == "text.txt" and len(facts["calibration_sha256"]) == 64
    assert not any("o_proj" in name for name in facts["modules"])

    twin = AutoModelForCausalLM.from_pretrained(chat_model, dtype=torch.bfloat16)
    tokens = calibration_tokens(text, byte_tokenizer(), samples=4, length=32)
    sparsify(
        twin,
        sparsity=0.75,
        method="wanda",
        pattern="balanced",
        calibration=tokens,
        skip=["o_proj"],
    )
    for name, weight in pruned_layers(out).items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, twin.get_submodule(name).weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sparsity", 1.5], r"sparsity must be at least 0 and less than 1 .*got 1.5"),
        (["--sparsity", 0.9, "--pattern", "2:4"], "2:4 has a sparsity of 0.5, got 0.9"),
        (["--sparsity", 0.9, "--method", "wanda"], "--method wanda needs --calibration FILE"),
        (["--sparsity", 0.9, "--calibration", __file__], "--calibration is for --method wanda"),
        (
            ["--sparsity", 0.9, "--method", "wanda", "--calibration", "none.txt"],
            "'none.txt' does not exist",
        ),
        (["--sparsity", 0.9, "--skip", "nonesuch"], "'nonesuch' matches no linear layer"),
    ],
)
def test_what_is_told_of_wrong_options(
    chat_model: Path, tmp_path: Path, arguments: list[object], message: str
) -> None:
    done = run("--model", chat_model, "--out", tmp_path / "out", *arguments)
    assert done.exit_code in (1, 2)
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    done = run("--model", "./nonesuch", "--sparsity", 0.5, "--out", tmp_path / "out")
    assert done.exit_code == 1 and "is not empty" in done.stderr


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    done = run("--model", "./nonesuch", "--sparsity", 0.5, "--out", tmp_path / "out")
    assert done.exit_code == 1 and "./nonesuch does not exist" in done.stderr


def test_a_sparse_model_is_not_pruned_again(chat_model: Path, tmp_path: Path) -> None:
    assert run("--model", chat_model, "--sparsity", 0.5, "--out", tmp_path / "a").exit_code == 0
    done = run("--model", tmp_path / "a", "--sparsity", 0.9, "--out", tmp_path / "b")
    assert done.exit_code == 1 and "is sparse already" in done.stderr
    assert not (tmp_path / "b").exists()


def test_an_encoder_decoder_model(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "t5"}')
    done = run("--model", tmp_path / "model", "--sparsity", 0.5, "--out", tmp_path / "out")
    assert done.exit_code == 1 and "belongs to no causal language model" in done.stderr
