"""Sibling projections computed as one: same logits, same weights, same hooks, and undone."""

import pytest
import torch
from gistserve.compress.weights_hash import weights_hash
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.fused_projections import fused_projections
from gistserve.server.engine.model_runner import ModelRunner
from gistserve.server.engine.request import Request
from torch import nn

from ...families import FAMILIES, tiny_model
from .engine_help import GREEDY, PROMPTS, Driver, make_adapter, reference
from .replay import tape  # noqa: F401  # a fixture
from .test_model_runner import CONFIG, sequences, step

# Groups in a layer; the mixtures' experts have tensors of their own, and so has phi3's attention.
GROUPS = {family: 2 for family in FAMILIES} | {
    "qwen3_moe": 1,
    "mixtral": 1,
    "gpt_oss": 1,
    "starcoder2": 1,
    "opt": 1,
    "phi3": 0,
    "gpt_neox": 0,
    "gpt2": 0,
    "deepseek_v3": 2,
}
FUSED = EngineConfig(num_blocks=96, block_size=4, fuse_projections=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_weights_and_the_way_back(family):
    model, plain = tiny_model(family), tiny_model(family)
    before = weights_hash(model)
    names = {name: tensor.shape for name, tensor in model.state_dict().items()}
    logits = []
    for config, its_model in ((CONFIG, plain), (FUSED, model)):
        runner = ModelRunner(its_model, config)
        seqs = sequences([9, 14])
        step(runner, [(seqs[0], 8), (seqs[1], 13)])
        step(runner, [(seq, 1) for seq in seqs])
        logits.append(torch.stack([row for seq in seqs for row in seq.logits]))
        if config is FUSED:
            assert runner._bound.num_fused_projections == GROUPS[family] * 3
            assert weights_hash(model) == before
            assert {name: t.shape for name, t in model.state_dict().items()} == names
            assert shared_storages(model) == GROUPS[family] * 3
        runner.close()
    assert (logits[1] - logits[0]).abs().max() < 1e-5 * logits[0].abs().max()
    assert weights_hash(model) == before and shared_storages(model) == 0
    assert all(type(m) is nn.Linear for m in model.modules() if isinstance(m, nn.Linear))
    assert [vars(m).keys() for m in model.modules()] == [vars(m).keys() for m in plain.modules()]


def shared_storages(model):
    """Weights of linear layers that share their memory with others, counted by memory."""
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    places = [w.untyped_storage().data_ptr() for w in weights]
    return len({place for place in places if places.count(place) > 1})


def test_no_memory_is_added():
    model = tiny_model("llama")

    def memory():
        storages = [parameter.untyped_storage() for parameter in model.parameters()]
        return {storage.data_ptr(): storage.nbytes() for storage in storages}

    apart = memory()
    runner = ModelRunner(model, FUSED)
    fused = memory()
    assert sum(fused.values()) == sum(apart.values()) and len(fused) == len(apart) - 3 * 3
    runner.close()


def test_one_product_a_group(monkeypatch):
    runner = ModelRunner(tiny_model("qwen2"), FUSED)  # with biases
    products = []
    linear = nn.functional.linear

    def record(x, weight, bias=None):
        products.append(tuple(weight.shape))
        return linear(x, weight, bias)

    monkeypatch.setattr(nn.functional, "linear", record)
    seq = sequences([5])[0]
    step(runner, [(seq, 5)])
    # queries, keys and values; output; gate and up; down: in three layers, then the head
    assert products == [(64, 32), (32, 32), (96, 32), (32, 48)] * 3 + [(97, 32)]
    runner.close()


def test_an_adapter_acts_on_fused_layers():
    plain, model = tiny_model("qwen3"), tiny_model("qwen3")
    states = []
    for its_model, config in ((plain, {}), (model, {"fuse_projections": True})):
        adapter = make_adapter(its_model)
        driver = Driver(its_model, adapter, **config)
        cache = driver.compress(PROMPTS["p17"], [3, 5, 7, 9, 11, 13, 15], chunk_size=6)
        states.append(torch.cat([*cache.keys, *cache.values]))
        driver.close()
    torch.testing.assert_close(states[1], states[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "deepseek_v3"])
def test_tokens_on_captured_steps(family, tape):  # noqa: F811
    driver = Driver(tiny_model(family), max_num_seqs=4, fuse_projections=True)
    for name, tokens in PROMPTS.items():
        driver.add(Request(name, tokens, GREEDY))
    driver.run()
    assert {name: driver.tokens(name) for name in PROMPTS} == reference(family)
    assert tape.replays[1] > 5
    driver.close()


class Block(nn.Module):
    """Three projections, called as a test wants."""

    def __init__(self, kind=nn.Linear, bias=(True, True, True), dtype=(torch.float32,) * 3):
        super().__init__()
        names = ("q_proj", "k_proj", "v_proj")
        for name, has_bias, its_dtype in zip(names, bias, dtype, strict=True):
            setattr(self, name, kind(4, 6, bias=has_bias, dtype=its_dtype))

    def forward(self, x, y=None):
        y = x if y is None else y
        return self.q_proj(x), self.k_proj(y), self.v_proj(y)


class OtherLinear(nn.Linear):
    """A layer whose forward is not a product of its weight."""


X = torch.arange(8.0).view(2, 4)


@pytest.mark.parametrize(
    "block",
    [
        Block(OtherLinear),
        Block(bias=(True, False, True)),
        Block(dtype=(torch.float32, torch.bfloat16, torch.float32)),
    ],
    ids=["class", "bias", "dtype"],
)
def test_layers_that_differ_are_left_alone(block):
    with fused_projections(block, lambda: None) as count:
        assert count == 0 and shared_storages(block) == 0


@pytest.mark.parametrize(
    "forward",
    [
        lambda block: block(X, X.clone()),  # keys and values of something else
        lambda block: block.q_proj(X),
        lambda block: (block(X), block.k_proj(X)),
        lambda block: None,
    ],
)
def test_layers_that_are_not_called_alike_are_left_alone(forward):
    block = Block()
    with fused_projections(block, lambda: forward(block)) as count:
        assert count == 0 and shared_storages(block) == 0
    assert not any(layer._forward_pre_hooks for layer in block.children())


def test_a_model_that_needs_contiguous_outputs_is_left_alone(caplog):
    block = Block()

    def forward():
        return [out.view(-1) for out in block(X)]

    with fused_projections(block, forward) as count:
        assert count == 0
        forward()
    assert "runs with its projections apart" in caplog.text


def test_calls_out_of_turn_are_right_too():
    block, Y = Block(), X + 1
    expected = [block(X), block(Y)]
    with torch.no_grad(), fused_projections(block, lambda: block(X)) as count:
        assert count == 1
        found = [block.q_proj(X), block.q_proj(Y), block.k_proj(X), block.v_proj(X)]
        found += [block.k_proj(Y), block.k_proj(Y), block.v_proj(Y)]
    (q, k, v), (q_y, k_y, v_y) = expected
    for actual, wanted in zip(found, [q, q_y, k, v, k_y, k_y, v_y], strict=True):
        torch.testing.assert_close(actual, wanted)
