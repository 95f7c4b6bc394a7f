"""What a forward decides by looking at tensors is taken out, and put back."""

import pytest
import torch
from gistserve.server.engine.attention_backend import ATTENTION_NAME
from gistserve.server.engine.host_sync import find_host_sync
from gistserve.server.engine.packed_forward import packed_logits
from gistserve.server.engine.static_forward import static_forward

from ...families import FAMILIES, tiny_model

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": 64,
    "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [3.0, 4.0, 5.0, 6.0],
}


class FirstValue:
    """Attends to nothing but each token's own value."""

    def attend(self, call, module, extra):
        return call.value.repeat_interleave(call.query.shape[1] // call.value.shape[1], 1)


def decode(model, positions=(3, 9, 20)):
    model.set_attn_implementation(ATTENTION_NAME)
    tokens = torch.arange(3, 3 + len(positions))
    with torch.inference_mode():
        return packed_logits(model, tokens, torch.tensor(positions), FirstValue(), upright=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_waits_for_the_device(family):
    model = tiny_model(family)
    with static_forward(model):
        assert find_host_sync(lambda: decode(model)) is None


@pytest.mark.parametrize("rope", [DYNAMIC, LONGROPE], ids=lambda rope: rope["rope_type"])
def test_rope_keeps_the_frequencies_of_short_sequences(rope):
    model = tiny_model("llama", rope_parameters=rope)
    expected = decode(model)
    if rope is DYNAMIC:
        assert find_host_sync(lambda: decode(model)) is not None
    decode(model, (3, 300, 20))  # other frequencies from here on,
    assert torch.equal(decode(model), expected)  # and those of short sequences again
    with static_forward(model):
        assert find_host_sync(lambda: decode(model)) is None
        assert torch.equal(decode(model), expected)
        decode(model, (3, 300, 20))
        assert torch.equal(decode(model), expected)
    assert model.model.rotary_emb.rope_type == rope["rope_type"]


def test_rope_by_kind_of_layer():
    kinds = {
        "full_attention": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    model = tiny_model("gemma3_text", rope_parameters=kinds)
    before = dict(model.model.rotary_emb.rope_type)
    expected = decode(model)
    with static_forward(model):
        assert find_host_sync(lambda: decode(model)) is None
        assert torch.equal(decode(model), expected)
    assert model.model.rotary_emb.rope_type == before


def test_the_warning_about_padding_returns():
    model = tiny_model("gpt2")
    with static_forward(model):
        assert "warn_if_padding_and_no_attention_mask" in vars(model.transformer)
    assert "warn_if_padding_and_no_attention_mask" not in vars(model.transformer)
    assert find_host_sync(lambda: decode(model)) == "aten::item"


WAITS = {
    "item": lambda x: x.sum().item(),
    "branch": lambda x: 1 if x.any() else 0,
    "mask": lambda x: x[x > 0],
    "mask_assigned": lambda x: x.index_put_((x > 0,), torch.tensor(1.0)),
    "nonzero": lambda x: x.nonzero(),
    "masked_select": lambda x: x.masked_select(x > 0),
    "other_device": lambda x: x.to("meta"),
    "repeats": lambda x: torch.repeat_interleave(x.long()),
    "unique": lambda x: x.unique(),
}


@pytest.mark.parametrize("waits", WAITS)
@pytest.mark.parametrize("inference", [False, True])
def test_operations_that_wait_are_found(waits, inference):
    with torch.inference_mode(inference):
        assert find_host_sync(lambda: WAITS[waits](torch.ones(3))) is not None


def test_operations_that_do_not_wait_are_not():
    x = torch.ones(3, 2)
    index = torch.tensor([0, 2])

    def run():
        x[index].float().to(torch.bfloat16).to("cpu")
        x[:, 1] = 2.0
        return torch.where(x > 0, x, 0.0).repeat_interleave(2, 0)

    assert find_host_sync(run) is None
