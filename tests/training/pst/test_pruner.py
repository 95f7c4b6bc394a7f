"""Which layers are replaced, and that taking them out again leaves the same model."""

import pytest
import torch
from gistserve.compress.errors import SparsityError
from gistserve.compress.sparse import Pattern
from gistserve.training.pst.pruner import Method, PruneSettings, prune, pruned_layers
from torch import nn

from .tiny_models import make_model

IN_A_BLOCK = {
    "bert": {
        "attention.self.query", "attention.self.key", "attention.self.value",
        "attention.output.dense", "intermediate.dense", "output.dense",
    },
    "gpt2": {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"},
    "llama": {
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", IN_A_BLOCK)
def test_every_linear_layer_in_the_blocks_and_no_other(kind: str) -> None:
    names = pruned_layers(make_model(kind), None)
    prefix = {"bert": "encoder.layer", "gpt2": "transformer.h", "llama": "model.layers"}[kind]
    assert set(names) == {f"{prefix}.{i}.{name}" for i in range(2) for name in IN_A_BLOCK[kind]}


def test_names_choose() -> None:
    model = make_model("llama")
    assert set(pruned_layers(model, ["v_proj", "model.layers.0.mlp.up_proj"])) == {
        "model.layers.0.self_attn.v_proj",
        "model.layers.1.self_attn.v_proj",
        "model.layers.0.mlp.up_proj",
    }
    with pytest.raises(SparsityError, match=r"'lm_head' matches no .*self_attn\.q_proj"):
        pruned_layers(model, ["lm_head"])


@pytest.mark.parametrize("method", ["pst", "movement", "magnitude"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])
def test_before_any_mask_nothing_changes_and_after_it_the_twin_is_the_same(
    method: Method, kind: str
) -> None:
    model = make_model(kind).eval()
    inputs = {"input_ids": torch.tensor([[3, 4, 5, 6]])}
    if kind == "t5":
        inputs["decoder_input_ids"] = torch.tensor([[0, 7, 8]])
    with torch.no_grad():
        before = model(**inputs).logits
        kinds = {name: type(module) for name, module in model.named_modules()}
        pruner = prune(model, PruneSettings(method=method, sparsity=0.5))
        torch.testing.assert_close(model(**inputs).logits, before)
        pruner.update_masks(0.5)
        masked = model(**inputs).logits
        assert not torch.allclose(masked, before)
        masks = pruner.merge()
        torch.testing.assert_close(model(**inputs).logits, masked)
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    for name, mask in masks.items():
        weight = model.get_submodule(name).weight
        assert isinstance(weight, nn.Parameter)
        assert torch.equal(weight != 0, mask)
        assert mask.sum() == mask.numel() // 2


@pytest.mark.parametrize("kind", ["llama", "bert", "t5"])
@pytest.mark.parametrize("method", ["movement", "magnitude"])
def test_baselines_train_all_but_embeddings(kind: str, method: Method) -> None:
    model = make_model(kind)
    prune(model, PruneSettings(method=method, sparsity=0.5))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        "llama": {"model.embed_tokens.weight"},
        "bert": {
            "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight",
            "embeddings.token_type_embeddings.weight",
        },
        "t5": {"shared.weight"},
    }[kind]  # fmt: skip


def test_pst_trains_only_what_it_adds() -> None:
    model = make_model("llama")
    prune(model, PruneSettings(method="pst", sparsity=0.5))
    trained = {name.split(".")[-1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"u", "v", "a", "b", "r", "c"}


def test_a_layer_that_cannot_have_the_pattern_is_named() -> None:
    model = make_model("llama", size=36)
    model.model.layers[0].mlp.down_proj = nn.Linear(70, 36, bias=False)
    with pytest.raises(SparsityError, match=r"layers\.0\.mlp\.down_proj has rows of 70"):
        prune(model, PruneSettings(method="pst", sparsity=0.5, pattern=Pattern.two_four))
