"""What pruning leaves of a model, compared with an independent computation."""

import pytest
import torch
from gistserve.compress.errors import SparsityError
from gistserve.compress.sparse import Method, Pattern, sparsify
from gistserve.compress.sparse.layers import weight_matrix
from torch import nn

from ...families import tiny_model

PATTERNS = [(Pattern.unstructured, 0.8), (Pattern.balanced, 0.8), (Pattern.two_four, 0.5)]


def tokens(samples=3, length=11):
    return torch.randint(3, 97, (samples, length), generator=torch.Generator().manual_seed(5))


def weights(model, names):
    return {n: weight_matrix(model.get_submodule(n)).clone().contiguous() for n in names}


def adder(squares, name):
    def add(module, args):
        squares[name] = squares[name] + (args[0].flatten(0, -2) ** 2).sum(0)

    return add


@torch.no_grad()
def wanda_masks(model, names, calibration, count, width):
    """arXiv 2306.11695, algorithm 1, in fp64 by whole forwards; prunes `model` layer by layer.

    `count(group size)` elements of each `width` neighbours of a row are kept (None: of a row).
    """
    model.double()
    layers: dict[str, list[str]] = {}
    for name in names:
        index = next(part for part in name.split(".") if part.isdigit())
        layers.setdefault(index, []).append(name)
    masks = {}
    for inside in layers.values():
        squares = dict.fromkeys(inside, 0.0)
        handles = [
            model.get_submodule(name).register_forward_pre_hook(adder(squares, name))
            for name in inside
        ]
        for sample in calibration:
            model(sample[None])
        for handle in handles:
            handle.remove()
        for name in inside:
            weight = weight_matrix(model.get_submodule(name))
            scores = weight.abs() * squares[name].sqrt()
            kept = [
                group >= group.sort(dim=1, descending=True).values[:, [count(group.shape[1]) - 1]]
                for group in scores.split(width or scores.shape[1], dim=1)
            ]
            masks[name] = torch.cat(kept, dim=1)
            weight *= masks[name]
    return masks


# gemma2 has two kinds of attention layers, which are given different masks.
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt"])
@pytest.mark.parametrize(("pattern", "sparsity"), PATTERNS)
def test_wanda(family, pattern, sparsity):
    model, before = tiny_model(family), tiny_model(family)
    recipe = sparsify(
        model, sparsity=sparsity, method="wanda", pattern=pattern, calibration=tokens()
    )
    width = {Pattern.two_four: 4, Pattern.balanced: 256, Pattern.unstructured: None}[pattern]
    count = lambda size: round(size * (1 - sparsity))  # noqa: E731
    originals = weights(before, recipe.modules)
    masks = wanda_masks(before, recipe.modules, tokens(), count, width)
    pruned = weights(model, recipe.modules)
    for name, mask in masks.items():
        assert torch.equal(pruned[name], originals[name] * mask), name
    assert recipe.details == {"calibration_samples": 3, "calibration_length": 11}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize(("pattern", "sparsity"), PATTERNS)
def test_magnitude(family, pattern, sparsity):
    model, before = tiny_model(family), tiny_model(family)
    recipe = sparsify(model, sparsity=sparsity, pattern=pattern)
    untouched = dict(model.named_parameters()).keys() - {f"{n}.weight" for n in recipe.modules}
    for name in untouched:
        assert torch.equal(model.get_parameter(name), before.get_parameter(name))
    pruned = weights(model, recipe.modules)
    for name, weight in weights(before, recipe.modules).items():
        columns = weight.shape[1]
        kept = pruned[name] != 0
        assert torch.equal(pruned[name], weight * kept)
        size = {Pattern.two_four: 4, Pattern.balanced: columns}.get(pattern, weight.numel())
        groups, chosen = weight.abs().view(-1, size), kept.view(-1, size)
        assert (chosen.sum(1) == round(size * (1 - sparsity))).all()
        smallest = groups.masked_fill(~chosen, 9).amin(1)
        assert (smallest >= groups.masked_fill(chosen, 0).amax(1)).all()


def test_a_sparsity_of_zero_changes_nothing():
    model = tiny_model("llama")
    recipe = sparsify(model, sparsity=0)
    before = tiny_model("llama")
    for name in recipe.modules:
        assert torch.equal(model.get_submodule(name).weight, before.get_submodule(name).weight)


def test_progress_is_told():
    seen = []
    sparsify(
        tiny_model("llama"),
        sparsity=0.5,
        only=["down_proj"],
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_calibration_knows_no_dropout():
    calm, training = tiny_model("gpt2"), tiny_model("gpt2", resid_pdrop=0.5).train()
    for model in (calm, training):
        recipe = sparsify(model, sparsity=0.5, method=Method.wanda, calibration=tokens())
    assert training.training and not calm.training
    for name in recipe.modules:
        left, right = calm.get_submodule(name), training.get_submodule(name)
        assert torch.equal(left.weight, right.weight)


def test_pruning_leaves_no_hooks():
    model = tiny_model("llama")
    sparsify(model, sparsity=0.5, method=Method.wanda, calibration=tokens())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_a_layer_that_no_token_reaches_is_scored_by_magnitude():
    model = tiny_model("llama")
    unused = nn.Linear(32, 8)
    model.model.layers[1].unused = unused
    before = unused.weight.detach().clone()
    sparsify(model, sparsity=0.75, method="wanda", calibration=tokens())
    kept = before.abs() >= before.abs().sort(dim=1, descending=True).values[:, [7]]
    assert torch.equal(unused.weight, before * kept)


def test_layers_that_do_not_follow_each_other_are_refused():
    model = tiny_model("llama")
    second = model.model.layers[1]
    second.register_forward_pre_hook(lambda module, args: (args[0] * 2, *args[1:]), prepend=True)
    with pytest.raises(SparsityError, match="do not simply follow each other"):
        sparsify(model, sparsity=0.5, method="wanda", calibration=tokens())


def test_layers_that_are_given_more_of_the_text_are_refused():
    model = tiny_model("llama")

    def add_embeddings(module, args, kwargs):
        return args, {**kwargs, "per_layer_input": args[0] * 1.0}

    model.model.layers[1].register_forward_pre_hook(add_embeddings, with_kwargs=True)
    with pytest.raises(SparsityError, match="more of the text than hidden states"):
        sparsify(model, sparsity=0.5, method="wanda", calibration=tokens())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "less than 1"),
        ({"sparsity": 0.5, "method": "random"}, "method must be one of magnitude, wanda"),
        ({"sparsity": 0.5, "pattern": "4:8"}, "pattern must be one of unstructured, balanced, 2:4"),
        ({"sparsity": 0.5, "method": "wanda"}, "needs calibration text"),
        (
            {"sparsity": 0.5, "method": "wanda", "calibration": torch.zeros(3)},
            r"int64 token ids \[samples, length\], got torch.float32 \[3\]",
        ),
        (
            {"sparsity": 0.5, "method": "wanda", "calibration": torch.full((1, 4), 97)},
            "token ids up to 97, the model's vocabulary has 97",
        ),
        (
            {
                "sparsity": 0.5,
                "method": "wanda",
                "calibration": torch.ones(1, 4, dtype=torch.int64),
                "only": ["lm_head"],
            },
            "lm_head lies outside the decoder's layers",
        ),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(SparsityError, match=message):
        sparsify(tiny_model("llama"), **settings)


def test_a_matrix_that_does_not_fit_the_pattern_is_named():
    model = tiny_model("llama", intermediate_size=46)
    with pytest.raises(SparsityError, match=r"model.layers.0.mlp.down_proj cannot be pruned: 2:4"):
        sparsify(model, sparsity=0.5, pattern="2:4")
