"""The bench of sparse checkpoints, on a model small enough to check by hand."""

import json
import sys
from pathlib import Path

import pytest
import torch
from gistserve.bench import sparse_model
from transformers import LlamaConfig

TINY = LlamaConfig(
    vocab_size=97,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    tie_word_embeddings=True,
)


def test_figures_of_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_model, "SHAPE_135M", TINY)
    output = tmp_path / "figures.json"
    words = ["--output", output, "--dtype", "float32", "--batch", 2, "--rounds", 2, "--tokens", 6]
    monkeypatch.setattr(sys, "argv", ["sparse_model", *map(str, words)])
    sparse_model.main()
    (run,) = json.loads(output.read_text())["runs"]
    assert run["same_tokens"]["alone"] == [True] * 4 and run["same_tokens"]["in_one_batch"]
    layer = 256 * (256 + 128 + 128 + 256) + 3 * 256 * 512
    dense = 4 * (97 * 256 + 2 * (layer + 2 * 256) + 256)
    assert run["bytes"]["dense"] == dense
    sparse = dense - 2 * 4 * layer + 2 * (layer // 8)
    kept = sum(round(n * 0.1) for n in (65536, 32768, 32768, 65536, *[131072] * 3))
    assert run["bytes"]["promised_by_the_format"] == sparse + 2 * 4 * kept
    assert run["bytes"]["weight_file_over_promised"] == pytest.approx(1, abs=0.02)
    (decode,) = run["decode"]
    assert (decode["batch"], decode["rounds"]) == (2, 2)
    for clock in ("wall", "processor"):
        figures = decode[clock]
        assert figures["dense_ms"]["steps"] == figures["sparse_ms"]["steps"] == 2 * 4
        assert figures["dense_ms"]["median"] > 0
        assert len(figures["dense_over_sparse_by_round"]) == 2


def test_the_shape_is_smollms() -> None:
    with torch.device("meta"):
        model = sparse_model.LlamaForCausalLM(sparse_model.SHAPE_135M)
    assert model.num_parameters() == 134_515_008  # as its card says: 135M
