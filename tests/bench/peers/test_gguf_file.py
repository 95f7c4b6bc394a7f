"""GGUF files against transformers, which reads them by itself, and llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gistserve.bench.load.errors import LoadError
from gistserve.bench.peers.gguf_file import write_gguf
from gistserve.bench.peers.model_folder import write_random_model
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig

from .tiny_llama import tiny_llama


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_reads_the_same_weights(
    tmp_path: Path, dtype: torch.dtype, tied: bool
) -> None:
    config = tiny_llama(tie_word_embeddings=tied, rms_norm_eps=3e-5)
    write_random_model(config, dtype, tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", dtype)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=dtype)
    found = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=dtype)
    expected = model.state_dict()
    assert found.state_dict().keys() == expected.keys()
    for name, weight in found.state_dict().items():
        assert weight.dtype == dtype
        assert torch.equal(weight, expected[name]), name
    assert found.config.rms_norm_eps == pytest.approx(3e-5)
    for name in ("rope_parameters", "max_position_embeddings", "head_dim", "num_key_value_heads"):
        assert getattr(found.config, name) == getattr(config, name), name


@pytest.mark.parametrize(("dtype", "format"), [(torch.float32, "F32"), (torch.bfloat16, "BF16")])
def test_matrices_keep_their_precision(tmp_path: Path, dtype: torch.dtype, format: str) -> None:
    write_random_model(tiny_llama(), dtype, tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", dtype)
    for tensor in GGUFReader(tmp_path / "model.gguf").tensors:
        norm = tensor.name.endswith("norm.weight")
        assert tensor.tensor_type.name == ("F32" if norm else format), tensor.name


def test_the_tokenizer_splits_texts_alike(tmp_path: Path) -> None:
    write_random_model(tiny_llama(), torch.float32, tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", torch.float32)
    ours = AutoTokenizer.from_pretrained(tmp_path / "model")
    found = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for text in (" time year people", "time\n\n 1234 we've ça", "a<|endoftext|> b"):
        assert found(text).input_ids == ours(text).input_ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_llama_cpp_computes_the_same_logits(tmp_path: Path, dtype: torch.dtype) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    write_random_model(tiny_llama(), dtype, tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", dtype)
    # What bfloat16 weights mean in exact arithmetic: llama.cpp rounds activations in its own way.
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    text = " time year people way day man thing woman life child world school state family"
    ids = tokenizer(text).input_ids
    llama = llama_cpp.Llama(
        str(tmp_path / "model.gguf"),
        n_ctx=64,
        logits_all=True,
        n_threads=1,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )
    assert llama.tokenize(text.encode(), add_bos=True, special=True) == ids
    llama.eval(ids)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    error = np.abs(llama.scores[: len(ids)] - expected).max() / np.abs(expected).max()
    assert error < (1e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MistralConfig(num_hidden_layers=1, hidden_size=64), "Only Llama models .* not mistral"),
        (
            tiny_llama(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
            "type linear",
        ),
        (tiny_llama(attention_bias=True), r"k_proj\.bias is no weight"),
    ],
)
def test_other_models_are_refused_with_the_remedy(
    tmp_path: Path, config: MistralConfig, message: str
) -> None:
    config.vocab_size, config.intermediate_size = 1200, 64
    write_random_model(config, torch.float32, tmp_path / "model")
    with pytest.raises(LoadError, match=message + r".*convert_hf_to_gguf\.py"):
        write_gguf(tmp_path / "model", tmp_path / "model.gguf", torch.float32)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    write_random_model(tiny_llama(), torch.float32, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(LoadError, match="holds no safetensors file"):
        write_gguf(tmp_path, tmp_path / "model.gguf", torch.float32)
