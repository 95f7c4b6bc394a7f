"""Compiled layers: the same tokens, one compilation for all layers of a kind, and no breaks."""

import pytest
import torch
from gistserve.server.engine import compiled_layers, model_runner
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.errors import UnsupportedModelError
from gistserve.server.engine.model_runner import ModelRunner
from gistserve.server.engine.request import Request
from torch import nn
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.utils import counters
from torch._guards import CompileContext

from ...families import tiny_model
from .engine_help import GREEDY, PROMPTS, Driver, gist_by_hand, make_adapter, prompt, reference


class Backend:
    """Runs graphs as they are, or made functional."""

    def __init__(self):
        self.functional = False
        self._compilations = set()

    def __call__(self, graph, inputs):
        self._compilations.add(str(CompileContext.current_compile_id()))
        return aot_eager(graph, inputs) if self.functional else graph

    @property
    def num_compiled(self):
        """How often torch compiled a piece of code; it may take more than one attempt."""
        return len(self._compilations)


@pytest.fixture
def backend(monkeypatch):
    torch._dynamo.reset()
    backend = Backend()
    monkeypatch.setattr(compiled_layers, "BACKEND", backend)
    counters.clear()
    yield backend
    assert not counters["graph_break"]


# Compiled for many tokens, for one of each sequence and for a single one; gemma2 has two kinds.
@pytest.mark.parametrize(("family", "count"), [("qwen3", 3), ("gemma2", 6)])
def test_all_layers_of_a_kind_share_what_is_compiled(family, count, backend, monkeypatch):
    """Over fused projections; once on steps that are replayed, and through AOTAutograd."""
    captured = backend.functional = family == "qwen3"
    start_capture = (lambda: lambda run: run) if captured else None
    monkeypatch.setattr(model_runner, "capture_for", lambda device: start_capture)
    model, plain = tiny_model(family), tiny_model(family)
    driver = Driver(model, compile=True, fuse_projections=True, max_num_seqs=8)
    assert driver.core.runner.captured_sizes == ([1, 2, 4, 8] if captured else [])
    assert backend.num_compiled == count
    for tag in ("", "-again"):
        for name, tokens in PROMPTS.items():
            driver.add(Request(name + tag, tokens, GREEDY))
        driver.run()
        assert {name: driver.tokens(name + tag) for name in PROMPTS} == reference(family)
    assert backend.num_compiled == count, "compiled again for other sizes"
    driver.close()
    assert [vars(m).keys() for m in model.modules()] == [vars(m).keys() for m in plain.modules()]
    tokens = torch.tensor([PROMPTS["p17"]])
    assert torch.equal(model(tokens).logits, plain(tokens).logits)


def test_a_compression_meets_its_adapter(backend):
    """Its hooks came after the layers were compiled, which would not notice them."""
    plain, model = tiny_model("gpt2"), tiny_model("gpt2")
    policy = prompt(23, seed=5)
    expected = gist_by_hand(plain, make_adapter(plain), policy)
    driver = Driver(model, make_adapter(plain), compile=True)
    cache = driver.compress(policy, list(range(8)), chunk_size=5)
    torch.testing.assert_close(cache.keys, expected.keys, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cache.values, expected.values, atol=1e-5, rtol=1e-5)
    driver.close()


def test_each_model_has_compiled_code_of_its_own(backend):
    """Else what others compiled would count towards the limit of each."""
    config = EngineConfig(num_blocks=4, compile=True)
    runners = [ModelRunner(tiny_model("opt", seed=seed), config) for seed in (1, 2)]
    assert backend.num_compiled == 2 * 3
    for runner in runners:
        runner.close()


def test_a_model_without_repeated_layers_is_refused(backend):
    model = tiny_model("llama")
    model.model.layers = Parts(model.model.layers)
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM cannot be compiled"):
        ModelRunner(model, EngineConfig(num_blocks=4, compile=True))
    assert model.config._attn_implementation == "eager"


class Parts(nn.Module):
    """A list of layers that is none."""

    def __init__(self, layers):
        super().__init__()
        for index, layer in enumerate(layers):
            setattr(self, str(index), layer)

    def __getitem__(self, index):
        return list(self.children())[index]


def test_a_backend_that_fails_is_told(monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no compiler on this machine")

    torch._dynamo.reset()
    monkeypatch.setattr(compiled_layers, "BACKEND", broken)
    model = tiny_model("llama")
    with pytest.raises(UnsupportedModelError, match="no compiler on this machine"):
        ModelRunner(model, EngineConfig(num_blocks=4, compile=True))
    assert model.config._attn_implementation == "eager"
    assert "forward" not in vars(model.model.layers[0])
