"""What can be wrong before a server starts: one line, an exit code, no traceback."""

import os
import shutil
import socket
from pathlib import Path

import pytest
from gistserve.server.cli import app
from gistserve.server.commands import model_source
from transformers import FalconConfig, FalconForCausalLM, T5Config, T5ForConditionalGeneration
from typer.testing import CliRunner

from ...chat_model import byte_tokenizer, save_adapter, save_chat_model


def refusal(*arguments: str, store: Path, code: int = 1) -> str:
    """Standard error of a `gistserve serve` that must not start."""
    result = CliRunner().invoke(app, ["serve", "--port", "0", "--store", str(store), *arguments])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_port_in_use(store: Path, chat_model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refusal("--model", str(chat_model), "--port", str(port), store=store, code=2)
    assert f"port {port} on 127.0.0.1 is in use" in said
    assert "--port" in said
    assert not store.exists()


def test_a_size_that_is_none(store: Path, chat_model: Path) -> None:
    said = refusal("--model", str(chat_model), "--kv-cache-memory", "lots", store=store, code=2)
    assert "'lots' is no size" in said


def test_a_model_folder_that_does_not_exist(store: Path) -> None:
    assert "/no/such/model does not exist" in refusal(
        "--model", "/no/such/model", store=store, code=2
    )


def test_no_embedded_model(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_source, "EMBEDDED_MODEL", tmp_path / "gone")
    assert "no embedded model; name one with --model" in refusal(store=store, code=2)


def test_an_empty_api_key(store: Path, chat_model: Path) -> None:
    said = refusal("--model", str(chat_model), "--api-key", "", store=store)
    assert "API key must not be empty" in said


def test_a_store_that_cannot_be_written(tmp_path: Path, chat_model: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    said = refusal("--model", str(chat_model), store=tmp_path / "file" / "store")
    assert str(tmp_path / "file" / "store") in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_store_without_permission(tmp_path: Path, chat_model: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert str(locked) in refusal("--model", str(chat_model), store=locked / "store")


def test_a_model_whose_attention_cannot_be_served(store: Path, tmp_path: Path) -> None:
    config = FalconConfig(
        vocab_size=262, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, alibi=True
    )
    FalconForCausalLM(config).save_pretrained(tmp_path / "falcon")
    byte_tokenizer().save_pretrained(tmp_path / "falcon")
    assert "FalconForCausalLM" in refusal("--model", str(tmp_path / "falcon"), store=store)


def test_a_model_that_is_no_causal_one(store: Path, tmp_path: Path) -> None:
    config = T5Config(
        vocab_size=262, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, num_decoder_layers=1
    )
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    byte_tokenizer().save_pretrained(tmp_path / "t5")
    assert "T5Config" in refusal("--model", str(tmp_path / "t5"), store=store)


def test_a_folder_that_holds_no_model(store: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "config.json" in refusal("--model", str(tmp_path / "empty"), store=store)


def test_truncated_weights(store: Path, tmp_path: Path, chat_model: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(chat_model, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert str(broken) in refusal("--model", str(broken), store=store)


def test_an_adapter_of_another_model(store: Path, tmp_path: Path, chat_model: Path) -> None:
    other = save_chat_model(tmp_path / "other", seed=1, adapter=False)
    foreign = save_adapter(other, tmp_path / "foreign")
    said = refusal("--model", str(chat_model), "--gist-adapter", str(foreign), store=store)
    assert str(foreign) in said
    assert "tiny has another weights" in said


def test_a_foreign_adapter_in_the_models_own_folder(
    store: Path, tmp_path: Path, chat_model: Path
) -> None:
    other = save_chat_model(tmp_path / "other", seed=1, adapter=False)
    shutil.copytree(chat_model / "gist_adapter", other / "gist_adapter")
    assert "other has another weights" in refusal("--model", str(other), store=store)


def test_a_folder_that_holds_no_adapter(store: Path, tmp_path: Path, chat_model: Path) -> None:
    said = refusal("--model", str(chat_model), "--gist-adapter", str(tmp_path), store=store)
    assert "gist_config.json" in said


def test_two_models_of_one_name(store: Path, chat_model: Path) -> None:
    said = refusal("--model", f"m={chat_model}", "--model", f"m={chat_model}", store=store)
    assert "must differ" in said


def test_a_cache_too_small_for_anything(store: Path, chat_model: Path) -> None:
    said = refusal("--model", str(chat_model), "--kv-cache-memory", "10", store=store)
    assert "kv_cache_memory" in said or "KV cache" in said
