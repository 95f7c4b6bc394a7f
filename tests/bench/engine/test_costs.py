"""Bytes and operations, counted by torch, by transformers' own cache, and one by one."""

from dataclasses import replace

import torch
from gistserve.bench.engine.costs import ModelCosts
from gistserve.bench.gpu.model_shapes import SMOLLM_135M, ModelShape
from gistserve.bench.gpu.random_models import dense_weight_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

ITEMSIZE = 4


@st.composite
def shapes(draw: st.DrawFn) -> ModelShape:
    kv_heads = draw(st.integers(1, 2))
    return ModelShape(
        "drawn",
        hidden_size=draw(st.sampled_from([8, 16])),
        intermediate_size=draw(st.sampled_from([8, 24])),
        num_layers=draw(st.integers(1, 3)),
        num_heads=kv_heads * draw(st.sampled_from([1, 2, 4])),
        num_kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([4, 8])),
        vocab_size=draw(st.integers(10, 40)),
        tied_head=draw(st.booleans()),
    )


def made(shape: ModelShape, device: str = "cpu") -> tuple[PreTrainedModel, ModelCosts]:
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(shape.config(64), attn_implementation="eager")
    kv = cache_bytes(model, 1) if device == "cpu" else 0
    return model.eval(), replace(ModelCosts.of(model), kv_bytes_per_token=kv)


def cache_bytes(model: PreTrainedModel, length: int) -> int:
    """Of the keys and values that transformers keeps of a sequence."""
    cache = DynamicCache()
    with torch.no_grad():
        model(torch.zeros(1, length, dtype=torch.long), past_key_values=cache)
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@settings(max_examples=10)
@given(shapes(), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_a_decode_step_reads_the_weights_and_every_sequences_cache(
    shape: ModelShape, lengths: list[int]
) -> None:
    model, costs = made(shape)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    read = dense_weight_bytes(shape, ITEMSIZE) + buffers
    read += sum(cache_bytes(model, length) for length in lengths)
    assert costs.decode_bytes(lengths) == read


@settings(max_examples=10)
@given(shapes(), st.integers(1, 3), st.integers(1, 7))
def test_prefill_needs_what_torch_counts_less_the_pairs_that_are_masked(
    shape: ModelShape, num_seqs: int, length: int
) -> None:
    model, costs = made(shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(num_seqs, length, dtype=torch.long), logits_to_keep=1)
    masked = sum(key > query for query in range(length) for key in range(length))
    # Two products a layer, each of a multiplication and an addition an element.
    products = 2 * 2 * shape.num_layers * shape.num_heads * shape.head_dim
    # Positions times frequencies, which transformers 5.17 writes as a matrix product.
    rotary = counter.get_flop_counts().get("LlamaForCausalLM.model.rotary_emb", {})
    counted = counter.get_total_flops() - sum(rotary.values()) - num_seqs * masked * products
    assert costs.prefill_flops(num_seqs, length) == counted


@settings(max_examples=10)
@given(shapes(), st.integers(1, 7), st.integers(1, 3))
def test_decoding_token_by_token_needs_what_a_prefill_does_but_for_the_heads(
    shape: ModelShape, length: int, num_seqs: int
) -> None:
    _, costs = made(shape)
    steps = sum(costs.decode_flops([n] * num_seqs) for n in range(1, length + 1))
    heads = 2 * shape.hidden_size * shape.vocab_size * (length - 1) * num_seqs
    assert steps - heads == costs.prefill_flops(num_seqs, length)


def test_a_known_model_is_counted_whole() -> None:
    _, costs = made(SMOLLM_135M, device="meta")
    # 134,515,008 parameters, as the model's card has it, of which 61 norms are not multiplied.
    assert costs.linear_params + costs.head_params == 134_515_008 - 61 * 576
    assert dense_weight_bytes(SMOLLM_135M, 1) == 134_515_008
