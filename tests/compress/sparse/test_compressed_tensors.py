"""Sparse checkpoints as compressed-tensors 0.3 to 0.10 wrote them, made here by numpy.

The layout is that of `BitmaskCompressor` and `Sparse24BitMaskCompressor` of that library: values
in row order, `numpy.packbits(mask, bitorder="little")`, the shape, and the exclusive running sum
of the rows' counts.
"""

import json

import numpy as np
import pytest
import torch
from gistserve.compress.sparse import sparse_modules, sparsify
from gistserve.server.engine.errors import ModelLoadError
from gistserve.server.engine.loader import load_model
from safetensors.torch import load_file, save_file

from ...chat_model import byte_tokenizer
from ...families import tiny_model

QUANTIZATION = {
    "config_groups": {},
    "format": "dense",
    "global_compression_ratio": None,
    "ignore": [],
    "kv_cache_scheme": None,
    "quant_method": "compressed-tensors",
    "quantization_status": "compressed",
    "version": "0.9.4",
}


def bitmask(prefix, weight):
    mask = (weight != 0).numpy()
    counts = mask.sum(-1)
    offsets = np.cumsum(counts) - counts if weight.ndim == 2 else np.zeros(1)
    return {
        f"{prefix}.shape": torch.tensor(weight.shape),
        f"{prefix}.compressed": weight[weight != 0],
        f"{prefix}.bitmask": torch.from_numpy(np.packbits(mask, axis=-1, bitorder="little")),
        f"{prefix}.row_offsets": torch.as_tensor(offsets, dtype=torch.int64),
    }


def bitmask_24(prefix, weight):
    mask = torch.zeros_like(weight.view(-1, 4), dtype=torch.bool)
    mask.scatter_(1, weight.view(-1, 4).abs().topk(2, dim=1).indices, True)
    mask = mask.view(weight.shape)
    packed = np.packbits(mask.numpy(), axis=-1, bitorder="little")
    return {
        f"{prefix}.shape": torch.tensor(weight.shape).reshape(-1, 1),
        f"{prefix}.compressed": weight[mask].reshape(len(weight), -1),
        f"{prefix}.bitmask": torch.from_numpy(packed),
    }


def write(folder, model, encode, sparsity, name_of, compressed=".weight", **quantization):
    """Save `model` as compressed-tensors would; `name_of` spells a parameter's prefix."""
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith(compressed):
            tensors |= encode(name_of(name), tensor)
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    settings = QUANTIZATION | {"sparsity_config": sparsity} | quantization
    config["quantization_config"] = settings
    (folder / "config.json").write_text(json.dumps(config))


BITMASK = {"format": "sparse-bitmask", "global_sparsity": 0.7, "targets": ["Linear"]}
BITMASK_24 = {"format": "sparse-24-bitmask", "sparsity_structure": "2:4", "targets": ["Linear"]}
SPELLINGS = [lambda name: name, lambda name: name.removesuffix(".weight")]


def assert_same(model, twin):
    tokens = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, twin(tokens).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name_of", SPELLINGS, ids=["weight.bitmask", "bitmask"])
@pytest.mark.parametrize("tied", [False, True])
def test_sparse_bitmask(tmp_path, name_of, tied):
    """All weights compressed: norms and embeddings too, which become dense again."""
    twin = tiny_model("llama", tie_word_embeddings=tied)
    sparsify(twin, sparsity=0.7)
    write(tmp_path, twin, bitmask, BITMASK, name_of)
    model, _ = load_model(tmp_path, device="cpu")
    assert len(sparse_modules(model)) == 21
    assert_same(model, twin)
    assert model.generation_config.eos_token_id == twin.generation_config.eos_token_id


def test_only_some_weights_are_compressed(tmp_path):
    twin = tiny_model("qwen3")
    sparsify(twin, sparsity=0.9)
    write(tmp_path, twin, bitmask, BITMASK, SPELLINGS[1], compressed="_proj.weight")
    model, _ = load_model(tmp_path, torch.bfloat16, "cpu")
    assert model.dtype == torch.bfloat16
    for name, module in sparse_modules(model).items():
        assert torch.equal(module.weight, twin.get_submodule(name).weight.bfloat16())


def test_sparse_24_bitmask(tmp_path):
    twin = tiny_model("llama")
    sparsify(twin, sparsity=0.5, pattern="2:4")
    write(tmp_path, twin, bitmask_24, BITMASK_24, SPELLINGS[1], compressed="_proj.weight")
    model, _ = load_model(tmp_path, device="cpu")
    assert len(sparse_modules(model)) == 21
    assert_same(model, twin)


INT8 = {"weights": {"num_bits": 8, "type": "int"}, "targets": ["Linear"]}


@pytest.mark.parametrize(
    ("sparsity", "quantization", "message"),
    [
        (
            {"format": "dense"},
            {"config_groups": {"group_0": INT8}, "format": "int-quantized"},
            r"quantised by compressed-tensors \(format int-quantized\).*unquantised checkpoint",
        ),
        (BITMASK_24, {"format": "marlin-24"}, r"quantised .*\(format marlin-24\)"),
        ({"format": "sparse-8-16"}, {}, r"sparsity format is 'sparse-8-16'; supported are"),
        (None, {}, "sparsity format is None"),
    ],
)
def test_what_is_not_merely_sparse_is_refused(tmp_path, sparsity, quantization, message):
    write(tmp_path, tiny_model("llama"), bitmask, sparsity, SPELLINGS[0], **quantization)
    with pytest.raises(ModelLoadError, match=message):
        load_model(tmp_path, device="cpu")


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


NAME = "model.layers.1.mlp.up_proj.weight"


def drop_a_value(tensors):
    tensors[f"{NAME}.compressed"] = tensors[f"{NAME}.compressed"][1:].clone()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{NAME}.bitmask"), "up_proj.bitmask is missing"),
        (drop_a_value, "model.layers.1.mlp.up_proj: corrupted bitmap"),
        (
            lambda t: t.update({f"{NAME}.shape": torch.tensor([48, 40])}),
            r"up_proj: bitmap is .*\[48, 4\].* shape \[48, 40\]",
        ),
        (
            lambda t: t.update({f"{NAME}.compressed": t[f"{NAME}.compressed"].to(torch.int8)}),
            "up_proj: values are torch.int8",
        ),
    ],
)
def test_broken_files_are_refused(tmp_path, change, message):
    twin = tiny_model("llama")
    sparsify(twin, sparsity=0.7)
    write(tmp_path, twin, bitmask, BITMASK, SPELLINGS[0])
    edit(tmp_path, change)
    with pytest.raises(ModelLoadError, match=message):
        load_model(tmp_path, device="cpu")


def test_a_file_that_is_cut_off(tmp_path):
    write(tmp_path, tiny_model("llama"), bitmask, BITMASK, SPELLINGS[0])
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match=r"model.safetensors is cut off"):
        load_model(tmp_path, device="cpu")
