"""Models from folders, and what a person is told where that fails."""

import json

import httpx
import pytest
import torch
from gistserve.server.engine.errors import ModelLoadError, UnsupportedModelError
from gistserve.server.engine.loader import load_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from ...families import tiny_model


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    words = Tokenizer(WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    return tmp_path


def test_loads_a_folder(folder):
    model, tokenizer = load_model(folder, device="cpu")
    assert not model.training and model.dtype == torch.float32
    assert torch.equal(model.lm_head.weight, tiny_model("llama").lm_head.weight)
    assert tokenizer.encode("a") == [1]
    assert load_model(str(folder), torch.bfloat16, "cpu")[0].dtype == torch.bfloat16


def config(folder, **content):
    (folder / "config.json").write_text(json.dumps(content))


def cut_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


BROKEN = {
    "holds no config.json": lambda folder: (folder / "config.json").unlink(),
    "not a valid JSON": lambda folder: (folder / "config.json").write_text("{"),
    "model type `nonesuch`": lambda folder: config(folder, model_type="nonesuch"),
    "cannot load the weights": cut_weights,
    "no file named model.safetensors": lambda folder: (folder / "model.safetensors").unlink(),
    "cannot load the tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{"),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_folder(folder, message):
    BROKEN[message](folder)
    with pytest.raises(ModelLoadError, match=message) as raised:
        load_model(folder, device="cpu")
    assert str(folder) in str(raised.value) and "\n" not in str(raised.value)


def test_weights_that_lack_a_tensor(folder):
    layers = json.loads((folder / "config.json").read_text())
    layers["num_hidden_layers"] = 4
    layers["layer_types"] = None
    config(folder, **layers)
    with pytest.raises(ModelLoadError, match="tensors are missing"):
        load_model(folder, device="cpu")


def test_an_embedding_model_without_a_head(folder):
    """As Qwen3Model saves itself: no head, and names without those of the model around it."""
    model = tiny_model("qwen3", tie_word_embeddings=False)
    model.model.save_pretrained(folder)
    with pytest.raises(ModelLoadError, match=r"lm_head\.weight"):
        load_model(folder, device="cpu")
    modules = [{"path": "", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "a.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}')
    loaded, _ = load_model(folder, device="cpu")
    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = model.model(tokens).last_hidden_state
        torch.testing.assert_close(loaded.model(tokens).last_hidden_state, expected)
        assert loaded(tokens).logits.isfinite().all()


def test_model_that_generates_no_text(folder):
    config(folder, model_type="t5")
    with pytest.raises(UnsupportedModelError, match="T5Config belongs to no causal language model"):
        load_model(folder, device="cpu")


def test_pickled_weights_are_not_opened(folder):
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model("llama").state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="safetensors"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("name", ["/nonesuch/model", "./nonesuch", "a/b/c"])
def test_path_that_does_not_exist(name):
    with pytest.raises(ModelLoadError, match=f"{name} does not exist"):
        load_model(name, device="cpu")


def test_file_in_place_of_a_folder(folder):
    with pytest.raises(ModelLoadError, match="is a file"):
        load_model(folder / "config.json", device="cpu")


def test_device_that_is_not_there(folder):
    with pytest.raises(ModelLoadError, match="device 'xpu' cannot be used"):
        load_model(folder, device="xpu")


def test_hub_out_of_reach(monkeypatch):
    def unreachable(*_, **__):
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr(httpx.Client, "send", unreachable)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(ModelLoadError, match=r"gistserve-tests/nonesuch.*hub cannot be reached"):
        load_model("gistserve-tests/nonesuch", device="cpu")
