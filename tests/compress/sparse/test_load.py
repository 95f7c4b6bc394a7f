"""`AutoModelForCausalLM.from_pretrained` on sparse checkpoints, whole and broken."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gistserve.compress.errors import GistError, SparseCheckpointError, SparsityError
from gistserve.compress.sparse import SparseConfig, save_sparse, sparse_modules, sparsify
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.quantizers import auto

from ...families import tiny_model
from .sparse_models import sparse_checkpoint

MODULE = "model.layers.1.mlp.down_proj"
FAMILIES = ["llama", "qwen3", "qwen2", "gpt2", "qwen3_moe", "phi3", "opt", "deepseek_v3"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sparse") / "llama"
    sparse_checkpoint(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", **options)


def logits(model):
    tokens = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return model(tokens).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_what_its_dense_twin_does(tmp_path, family):
    twin = sparse_checkpoint(tmp_path, family)
    model = load(tmp_path)
    assert len(sparse_modules(model)) >= 12
    torch.testing.assert_close(logits(model), logits(twin), rtol=1e-4, atol=1e-5)


def test_tied_embeddings(tmp_path):
    twin = sparse_checkpoint(tmp_path, "llama", tie_word_embeddings=True)
    model = load(tmp_path)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    torch.testing.assert_close(logits(model), logits(twin), rtol=1e-4, atol=1e-5)


def test_an_untied_head_may_be_sparse(tmp_path):
    twin = tiny_model("llama")
    save_sparse(twin, tmp_path / "out", sparsify(twin, sparsity=0.5, only=["lm_head"]))
    model = load(tmp_path / "out")
    assert list(sparse_modules(model)) == ["lm_head"]
    torch.testing.assert_close(logits(model), logits(twin), rtol=1e-4, atol=1e-5)


def test_a_layer_of_zeros_alone(tmp_path):
    twin = tiny_model("llama")
    with torch.no_grad():
        twin.get_submodule(MODULE).weight.zero_()
    save_sparse(twin, tmp_path / "out", sparsify(twin, sparsity=0.5, only=["up_proj", MODULE]))
    model = load(tmp_path / "out")
    torch.testing.assert_close(logits(model), logits(twin), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, "auto"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_another_dtype(tmp_path, stored, dtype):
    twin = tiny_model("llama").to(stored)
    save_sparse(twin, tmp_path / "out", sparsify(twin, sparsity=0.7))
    model = load(tmp_path / "out", dtype=dtype)
    wanted = stored if dtype == "auto" else dtype
    assert model.dtype == wanted
    for name, module in sparse_modules(model).items():
        assert torch.equal(module.weight, twin.get_submodule(name).weight.to(wanted)), name


@pytest.mark.gpu
def test_on_a_gpu(tmp_path):
    twin = sparse_checkpoint(tmp_path / "out")
    model = load(tmp_path / "out").to("cuda")
    tokens = torch.randint(3, 97, (2, 9))
    torch.testing.assert_close(
        model(tokens.cuda()).logits.cpu(), twin(tokens).logits, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("prepared", [False, True])
def test_saving_again_writes_the_same(tmp_path, family, prepared):
    sparse_checkpoint(tmp_path / "one", family)
    model = load(tmp_path / "one")
    if prepared:  # in whatever format the layers compute
        for module in sparse_modules(model).values():
            module.prepare()
    model.save_pretrained(tmp_path / "two")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_saving_a_loaded_model_with_more_facts(tmp_path):
    twin = sparse_checkpoint(tmp_path / "one")
    model = load(tmp_path / "one")
    recipe = sparsify(tiny_model("llama"), sparsity=0.7)
    facts = save_sparse(model, tmp_path / "two", recipe, manifest={"note": "again"})
    assert facts["measured_sparsity"] == pytest.approx(0.7, abs=1e-3)
    assert facts["dense_bytes"] == sum(p.numel() * 4 for p in twin.parameters())
    one, two = (tmp_path / n / "model.safetensors" for n in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    with pytest.raises(SparsityError, match="is sparse already; take the dense model"):
        sparsify(model, sparsity=0.5)


def test_many_files(tmp_path):
    twin = tiny_model("llama")
    recipe = sparsify(twin, sparsity=0.7)
    save_sparse(twin, tmp_path / "out", recipe, max_shard_size="10KB")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    torch.testing.assert_close(logits(load(tmp_path / "out")), logits(twin), rtol=1e-4, atol=1e-5)


def edit_tensors(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


def drop(part):
    return lambda folder: edit_tensors(folder, lambda t: t.pop(f"{MODULE}.{part}"))


def flip_a_bit(folder):
    def flip(tensors):
        tensors[f"{MODULE}.weight_bitmap"][3, 2] ^= 16

    edit_tensors(folder, flip)


def cut_values(folder):
    def cut(tensors):
        name = f"{MODULE}.weight_values"
        tensors[name] = tensors[name][:-1].clone()

    edit_tensors(folder, cut)


def cut_file(folder):
    os.truncate(folder / "model.safetensors", 20_000)


def edit_modules(folder, **changes):
    modules = json.loads((folder / "config.json").read_text())["quantization_config"]["modules"]
    edit_config(folder, modules=modules | changes)


BROKEN = {
    rf"{MODULE}.weight_bitmap is missing from the checkpoint": drop("weight_bitmap"),
    rf"{MODULE}.weight_values is missing from the checkpoint": drop("weight_values"),
    rf"{MODULE}: corrupted bitmap: it marks \d+ elements": flip_a_bit,
    rf"{MODULE}.weight_values has the shape \[460\] in .*promises \[461\]": cut_values,
    r"model.safetensors is cut off or no safetensors file": cut_file,
    rf"{MODULE}.weight_values has the shape \[461\] in .* promises \[400\]": lambda folder: (
        edit_modules(folder, **{MODULE: 400})
    ),
    rf"promises 99999 values of {MODULE}, which has 1536 elements": lambda folder: edit_modules(
        folder, **{MODULE: 99999}
    ),
    r"'model.layers.7.mlp.up_proj' a sparse module, but .* no linear": lambda folder: edit_modules(
        folder, **{"model.layers.7.mlp.up_proj": 1}
    ),
    r"'model.norm' a sparse module, but .* no linear": lambda folder: edit_modules(
        folder, **{"model.norm": 1}
    ),
    r"unknown version 2; .* reads format version 1: update": lambda folder: edit_config(
        folder, format_version=2
    ),
    r"unknown field 'scales'": lambda folder: edit_config(folder, scales="fp8"),
    r"modules must give every sparse module's number": lambda folder: edit_config(
        folder, modules={MODULE: -1}
    ),
}


@pytest.mark.parametrize("message", BROKEN)
@pytest.mark.filterwarnings("ignore")
def test_broken_checkpoints_are_refused(folder, message):
    BROKEN[message](folder)
    with pytest.raises(SparseCheckpointError, match=message) as raised:
        load(folder)
    assert isinstance(raised.value, GistError)
    assert (
        "again" in str(raised.value)
        or "another model" in str(raised.value)
        or "update" in str(raised.value)
    )


def test_a_tied_head_called_sparse(tmp_path):
    sparse_checkpoint(tmp_path / "model", tie_word_embeddings=True)
    edit_modules(tmp_path / "model", lm_head=1)
    with pytest.raises(SparseCheckpointError, match=r"'lm_head' a sparse module, but .* shared"):
        load(tmp_path / "model")


def test_a_dense_model_does_not_become_sparse_by_loading(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    with pytest.raises(SparsityError, match="gistserve compress sparse"):
        LlamaForCausalLM.from_pretrained(tmp_path, quantization_config=SparseConfig({}))


def test_without_our_import_transformers_warns(folder, monkeypatch, capfd):
    """What the README says happens: a warning that names the method, and untrained layers."""
    monkeypatch.delitem(auto.AUTO_QUANTIZATION_CONFIG_MAPPING, "gistserve_sparse")
    monkeypatch.delitem(auto.AUTO_QUANTIZER_MAPPING, "gistserve_sparse")
    warnings = []
    monkeypatch.setattr(auto.logger, "warning", warnings.append)
    model, report = load(folder, output_loading_info=True)
    assert warnings and "Unknown quantization type, got gistserve_sparse" in warnings[0]
    assert f"{MODULE}.weight" in report["missing_keys"]
    assert not sparse_modules(model)


def test_importing_compress_is_enough():
    code = """
import gistserve.compress
from transformers.quantizers import auto
assert auto.AUTO_QUANTIZATION_CONFIG_MAPPING["gistserve_sparse"].__name__ == "SparseConfig"
assert auto.AUTO_QUANTIZER_MAPPING["gistserve_sparse"].__name__ == "SparseQuantizer"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
