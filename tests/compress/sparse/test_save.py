"""What a sparse checkpoint holds, byte for byte."""

import json

import numpy as np
import pytest
import torch
from gistserve.compress.errors import SparsityError
from gistserve.compress.sparse import SparseRecipe, save_sparse, sparsify
from gistserve.compress.sparse import save as save_module
from safetensors import safe_open
from safetensors.torch import load_file

from ...chat_model import byte_tokenizer
from ...families import tiny_model
from .sparse_models import sparse_checkpoint


def config_of(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_bitmaps_and_values_are_those_of_numpy(tmp_path, family):
    twin = sparse_checkpoint(tmp_path / "out", family)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    config = config_of(tmp_path / "out")
    transposed = family == "gpt2"  # its Conv1D holds [in, out]
    for name, nnz in config["modules"].items():
        weight = twin.get_submodule(name).weight.detach().numpy()
        weight = weight.T if transposed else weight
        bitmap = np.packbits(weight != 0, axis=1, bitorder="little")
        assert np.array_equal(stored.pop(f"{name}.weight_bitmap"), bitmap)
        assert np.array_equal(stored.pop(f"{name}.weight_values"), weight[weight != 0])
        assert nnz == np.count_nonzero(weight)
    for name, tensor in stored.items():
        assert torch.equal(tensor, twin.state_dict()[name])
    assert config["quant_method"] == "gistserve_sparse" and config["format_version"] == 1
    assert (config["method"], config["sparsity"], config["pattern"]) == (
        "magnitude",
        0.7,
        "unstructured",
    )
    tied = family == "gpt2"
    assert ("lm_head" in config["dense_modules"]) != tied


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_the_file_takes_the_bytes_that_the_format_promises(tmp_path, dtype, size):
    twin = tiny_model("llama", hidden_size=256, intermediate_size=520).to(dtype)
    facts = save_sparse(twin, tmp_path / "out", sparsify(twin, sparsity=0.9))
    promised = sum(
        tensor.numel() * size for name, tensor in twin.state_dict().items() if "proj" not in name
    )
    for name in facts["modules"]:
        rows, columns = twin.get_submodule(name).weight.shape
        promised += rows * -(-columns // 8) + round(0.1 * rows * columns) * size
    on_disk = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert on_disk == pytest.approx(promised, rel=0.02)
    assert facts["weight_file_bytes"] == on_disk
    assert facts["tensor_bytes"] == promised
    dense = sum(t.numel() * size for t in twin.state_dict().values())
    assert facts["dense_bytes"] == dense
    assert dense > 3 * on_disk


def test_manifest_card_and_tokenizer(tmp_path):
    twin = tiny_model("llama")
    recipe = sparsify(twin, sparsity=0.75, skip=["q_proj"])
    manifest = {"base_model": "org/base", "steps": 12, "metrics": {"perplexity": 7.25}}
    facts = save_sparse(
        twin, tmp_path / "out", recipe, tokenizer=byte_tokenizer(), manifest=manifest
    )
    assert json.loads((tmp_path / "out" / "sparsity.json").read_text()) == facts
    assert facts["steps"] == 12
    assert facts["measured_sparsity"] == pytest.approx(0.75, abs=1e-3)
    assert facts["modules"]["model.layers.0.mlp.down_proj"] == {
        "shape": [32, 48],
        "nnz": 384,
        "sparsity": 0.75,
        "bytes": 32 * 6 + 384 * 4,
        "dense_bytes": 32 * 48 * 4,
    }
    assert "model.layers.2.self_attn.q_proj" in facts["dense_modules"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model: org/base" in card
    assert "| metrics: perplexity | 7.25 |" in card and "not measured" not in card
    assert "| model.layers.0.mlp.down_proj | 32 x 48 | 75.00% | 1,728 | 6,144 |" in card
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_a_card_without_metrics_says_so(tmp_path):
    sparse_checkpoint(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "How much worse it answers than the dense model was not measured" in card


def test_the_model_stays_as_it_is(tmp_path):
    model = tiny_model("llama")
    recipe = SparseRecipe(method="none", modules=("model.layers.0.mlp.up_proj",))
    save_sparse(model, tmp_path / "out", recipe)
    assert not hasattr(model.config, "quantization_config")
    model.save_pretrained(tmp_path / "dense")
    with safe_open(tmp_path / "dense" / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(model.state_dict())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_masks_of_a_trainer(tmp_path, family):
    """Masks say what is kept, in the weight's own shape; a kept zero stays kept."""
    model = tiny_model(family)
    name = {"llama": "model.layers.0.self_attn.q_proj", "gpt2": "transformer.h.0.attn.c_proj"}
    name = name[family]
    weight = model.get_submodule(name).weight
    assert weight.shape == (32, 32)
    mask = torch.rand(32, 32, generator=torch.Generator().manual_seed(0)) < 0.3
    with torch.no_grad():
        weight[mask.nonzero()[0, 0], mask.nonzero()[0, 1]] = 0
    recipe = SparseRecipe(method="pst", modules=(name,), details={"score": "S1"})
    facts = save_sparse(model, tmp_path / "out", recipe, masks={name: mask})
    assert facts["modules"][name]["nnz"] == int(mask.sum())
    assert (facts["method"], facts["sparsity"], facts["score"]) == ("pst", None, "S1")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    wanted = mask.T if family == "gpt2" else mask
    packed = np.packbits(wanted.numpy(), axis=1, bitorder="little")
    assert np.array_equal(stored[f"{name}.weight_bitmap"], packed)


@pytest.mark.parametrize(
    ("name", "mask", "message"),
    [
        ("model.layers.9", None, "LlamaForCausalLM has no module 'model.layers.9'"),
        ("model.norm", None, "model.norm is a LlamaRMSNorm, not a linear layer"),
        ("lm_head", None, "the weight of lm_head is shared with another module"),
        (
            "model.layers.0.mlp.up_proj",
            torch.ones(2, 2, dtype=torch.bool),
            r"model.layers.0.mlp.up_proj cannot be stored sparse: mask is torch.bool \[2, 2\]",
        ),
    ],
)
def test_modules_that_cannot_be_stored_sparse(tmp_path, name, mask, message):
    model = tiny_model("llama", tie_word_embeddings=True)
    recipe = SparseRecipe(method="own", modules=(name,))
    masks = {} if mask is None else {name: mask}
    with pytest.raises(SparsityError, match=message):
        save_sparse(model, tmp_path / "out", recipe, masks=masks)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    (tmp_path / "plain").touch()
    with pytest.raises(SparsityError, match=r"out is not empty"):
        sparse_checkpoint(tmp_path / "out")
    with pytest.raises(SparsityError, match=r"plain exists and is no folder"):
        sparse_checkpoint(tmp_path / "plain")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "plain"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    sparse_checkpoint(tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(facts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save_module, "model_card", fail)
    with pytest.raises(OSError, match="No space left"):
        sparse_checkpoint(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
