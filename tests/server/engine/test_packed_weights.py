"""Weights packed for the CPU: same logits, same values and hooks, no memory more, and undone."""

import math
from pathlib import Path

import pytest
import torch
from gistserve.compress.weights_hash import weights_hash
from gistserve.server.engine import packed_weights as packing
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.engine_info import weight_bytes
from gistserve.server.engine.model_runner import ModelRunner
from gistserve.server.engine.packed_weights import packed_bytes, packed_weights
from gistserve.server.engine.request import Request
from torch import nn
from transformers import AutoModelForCausalLM

from ...families import FAMILIES, tiny_model
from .engine_help import GREEDY, PROMPTS, Driver, make_adapter, reference
from .test_model_runner import CONFIG, sequences, step

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN"
)


@pytest.fixture
def pack_all(monkeypatch):
    monkeypatch.setattr(packing, "_SMALLEST", 0)


def linear_layers(model):
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_weights_and_the_way_back(family, monkeypatch):
    model, plain = tiny_model(family), tiny_model(family)
    before, size = weights_hash(model), weight_bytes(model)
    logits = []
    for its_model, smallest in ((plain, math.inf), (model, 0)):
        monkeypatch.setattr(packing, "_SMALLEST", smallest)
        runner = ModelRunner(its_model, CONFIG)
        seqs = sequences([9, 14])
        step(runner, [(seqs[0], 8), (seqs[1], 13)])
        step(runner, [(seq, 1) for seq in seqs])
        logits.append(torch.stack([row for seq in seqs for row in seq.logits]))
        if smallest == 0:
            assert runner._bound.num_packed_weights == len(linear_layers(model))
            assert weights_hash(model) == before
            head, table = model.get_output_embeddings(), model.get_input_embeddings()
            tied = head.weight is table.weight
            assert weight_bytes(model) == size + (4 * head.weight.numel() if tied else 0)
        else:
            assert packed_bytes(its_model) == 0
        runner.close()
    assert not torch.equal(*logits)  # other products, so other roundings
    assert (logits[1] - logits[0]).abs().max() < 1e-5 * logits[0].abs().max()
    assert weights_hash(model) == before and weight_bytes(model) == size
    assert all(type(layer) is nn.Linear for layer in linear_layers(model))
    assert [vars(m).keys() for m in model.modules()] == [vars(m).keys() for m in plain.modules()]


def test_a_packed_weight_takes_the_plain_ones_place(pack_all):
    layer = nn.Linear(24, 40).requires_grad_(False)
    values = layer.weight.clone()
    with packed_weights(nn.Sequential(layer), lambda: None) as count:
        assert count == 1
        assert layer.weight.is_mkldnn and layer.weight.shape == (40, 24)
        assert not layer.weight.requires_grad
        assert torch.equal(layer.weight.to_dense(), values)
    assert torch.equal(layer.weight, values) and not layer.weight.requires_grad


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells mappings on Linux alone")
def test_the_checkpoints_file_does_not_stay_in_memory_beside(pack_all, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    runner = ModelRunner(model, CONFIG)
    assert runner._bound.num_packed_weights
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    runner.close()


def test_bfloat16_gives_what_float64_gives_to_its_precision(pack_all):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no products in bfloat16")
    layer = nn.Linear(320, 200).bfloat16().requires_grad_(False)
    x = torch.randn(7, 320).bfloat16()
    exact = x.double() @ layer.weight.double().T + layer.bias.double()
    with packed_weights(layer, lambda: None) as count:
        assert count == 1
        error = (layer(x).double() - exact).abs().max()
    assert error < 2**-8 * exact.abs().max()


def test_what_is_left_alone(monkeypatch):
    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    patched = nn.Linear(512, 512)
    patched.forward = lambda input: input
    model = nn.ModuleList(
        [
            Doubled(512, 512),
            patched,
            nn.Linear(512, 512, dtype=torch.float64),
            nn.Linear(512, 511),  # too small
            nn.Linear(512, 512),
        ]
    )
    with packed_weights(model, lambda: None) as count:
        assert count == 1 and model[-1].weight.is_mkldnn
        assert not any(layer.weight.is_mkldnn for layer in model[:-1])


def test_a_model_that_cannot_run_so_runs_as_it_is(pack_all, caplog):
    layer = nn.Linear(8, 8)

    def forward():
        if layer.weight.is_mkldnn:
            raise RuntimeError("reads its weights itself")

    with packed_weights(layer, forward) as count:
        assert count == 0 and not layer.weight.is_mkldnn
    assert "reads its weights itself" in caplog.text


def test_compiled_layers_keep_theirs(pack_all):
    model = tiny_model("llama")
    runner = ModelRunner(model, EngineConfig(num_blocks=96, block_size=4, compile=True))
    assert runner._bound.num_packed_weights == 0 == packed_bytes(model)
    runner.close()


def test_an_adapter_acts_on_packed_layers(monkeypatch):
    states = []
    for smallest in (math.inf, 0):
        monkeypatch.setattr(packing, "_SMALLEST", smallest)
        model = tiny_model("qwen3")
        driver = Driver(model, make_adapter(model))
        cache = driver.compress(PROMPTS["p17"], [3, 5, 7, 9, 11, 13, 15], chunk_size=6)
        states.append(torch.cat([*cache.keys, *cache.values]))
        driver.close()
    torch.testing.assert_close(states[1], states[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "deepseek_v3", "gpt2"])
def test_tokens(family, pack_all):
    driver = Driver(tiny_model(family), max_num_seqs=4)
    for name, tokens in PROMPTS.items():
        driver.add(Request(name, tokens, GREEDY))
    driver.run()
    assert {name: driver.tokens(name) for name in PROMPTS} == reference(family)
