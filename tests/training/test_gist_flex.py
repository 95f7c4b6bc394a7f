"""FlexAttention for the single masked pass: mask, logits and gradients equal the dense ones."""

from typing import Any

import pytest
import torch
from gistserve.training.gist import flex
from gistserve.training.gist.batch import GistBatch, GistExample, Turn, collate
from gistserve.training.gist.mask import BLOCK, gist_block_mask, gist_mask
from gistserve.training.gist.masked import MaskedGist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention as torch_flex
from torch.nn.attention.flex_attention import create_block_mask, create_mask
from transformers import PreTrainedModel

from ..compress.tiny_models import tiny_model
from ..families import VOCAB_SIZE
from ..families import tiny_model as any_tiny_model

GISTS = [5, 6]
BF16_ERROR = 0.1
"""Ample for rounding, which makes 0.02; another condition changes logits and gradients by half."""

CONDITIONS = ("gist", "positive", "negative")


@pytest.fixture
def cpu_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch refuses gradients on the CPU, but its uncompiled definition has them."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)


def batch(prompts: tuple[int, ...] = (200, 3, 129), answer: int = 20) -> GistBatch:
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(7, VOCAB_SIZE, (count,), generator=generator).tolist()

    return collate([GistExample(tokens(n), [Turn(tokens(9), tokens(answer))]) for n in prompts])


def train_step(model: PreTrainedModel, data: GistBatch, **options: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    masked = MaskedGist(model, GISTS, **options)
    masked(**data)["loss"].backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": masked.logits(**data).detach()} | gradients


def trainable(family: str) -> PreTrainedModel:
    model = tiny_model(family).requires_grad_(True)
    return model if family == "deepseek_v3" else model.double()  # no experts in float64 on a CPU


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], to: float) -> None:
    assert set(ours) == set(theirs)
    for name in theirs:
        error = float((ours[name].double() - theirs[name].double()).norm())
        assert error <= to * float(theirs[name].double().norm()) + 1e-12, name


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=3),
    st.integers(1, 140),
    st.integers(0, 140),
    st.integers(1, 150),
    st.sampled_from(CONDITIONS),
)
def test_the_block_mask_is_the_gist_mask(
    lengths: list[int], gists: int, sink: int, turn: int, condition: Any
) -> None:
    total = max(lengths) + gists + turn
    arguments = (torch.tensor(lengths), gists, sink)
    ours = gist_block_mask(*arguments, total, condition)
    padded = ours.shape[-1]
    assert padded % BLOCK == 0 and padded - total < max(BLOCK, 2 * BLOCK - total + 1)
    mask = create_mask(ours.mask_mod, len(lengths), None, padded, padded, device="cpu")
    assert torch.equal(mask[:, 0, :total, :total], gist_mask(*arguments, total, condition))
    whole = create_block_mask(ours.mask_mod, len(lengths), None, padded, padded, device="cpu")
    assert torch.equal(ours.to_dense(), whole.to_dense())
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(ours, name), getattr(whole, name)), name
    for name in ("kv_indices", "full_kv_indices", "q_indices", "full_q_indices"):
        assert torch.equal(getattr(ours, name), getattr(whole, name)), name


def test_the_turns_blocks_on_the_prompt_are_dropped() -> None:
    """512 prompt tokens, 8 gists, 512 of a turn: 9 blocks a side, 4 of the turn alone."""
    computed = {
        condition: gist_block_mask(torch.tensor([512]), 8, 0, 1032, condition).to_dense()[0, 0]
        for condition in CONDITIONS
    }
    assert computed["positive"].sum() == 9 * 10 // 2
    assert computed["gist"].sum() == computed["positive"].sum() - 4 * 4
    assert not computed["gist"][5:, :4].any() and computed["gist"][4, :4].all()
    assert not computed["negative"][5:, :4].any()
    sink = gist_block_mask(torch.tensor([512]), 8, 1, 1032).to_dense()[0, 0]
    assert sink[5:, 0].all() and not sink[5:, 1:4].any()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox", "deepseek_v3", "gemma2"])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_logits_and_gradients_equal_the_dense_mask(
    family: str, condition: Any, cpu_backward: None
) -> None:
    """Among them head sizes under 16, shared and own key heads, Dv != D, and a soft-cap."""
    model, data = trainable(family), batch()
    dense = train_step(model, data, condition=condition, sink_tokens=1, attention="dense")
    ours = train_step(model, data, condition=condition, sink_tokens=1, attention="flex")
    assert_close(ours, dense, 1e-6 if model.dtype == torch.float64 else 1e-4)
    assert model.config._attn_implementation == "eager"


def test_attention_sinks_join_the_denominator() -> None:
    model, data = tiny_model("gpt_oss"), batch()
    dense, ours = (MaskedGist(model, GISTS, attention=kind) for kind in ("dense", "flex"))
    assert_close({"": ours.logits(**data)}, {"": dense.logits(**data)}, 1e-5)


def test_under_autocast_all_operands_have_its_dtype(cpu_backward: None) -> None:
    model, data = tiny_model("llama").requires_grad_(True), batch()
    full = train_step(model, data, attention="dense")
    with torch.autocast("cpu", torch.bfloat16):
        half = train_step(model, data, attention="flex")
    assert_close(half, full, BF16_ERROR)


def test_few_compilations_serve_all_lengths(
    monkeypatch: pytest.MonkeyPatch, cpu_backward: None
) -> None:
    """torch.compile gives up after eight; sizes that happen to agree cost one more."""
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(torch_flex.flex_attention, dynamic=True, backend=counter)
    monkeypatch.setattr(flex, "flex_attention", compiled)
    sizes = [(3, 600), (3, 400), (6, 40), (5, 700), (7, 300), (1, 600), (1, 300)]
    for rows, total in sizes:
        query, key, value = (torch.randn(rows, n, total, 16).requires_grad_() for n in (2, 1, 1))
        mask = gist_block_mask(torch.arange(rows) * 9 + 1, 4, 1, total)
        output, _ = flex.flex_attention_forward(torch.nn.Module(), query, key, value, mask)
        output.sum().backward()
        assert query.grad is not None
    assert 1 <= counter.frame_count < len(sizes) / 2


def test_only_cuda_takes_it_by_itself() -> None:
    masked = MaskedGist(tiny_model("llama"), GISTS)
    masked.logits(**batch())
    assert masked.attention == "auto"


def test_the_trial_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, cpu_backward: None) -> None:
    model = trainable("llama").eval()
    state = torch.random.get_rng_state()
    assert flex.flex_problem(model) is None
    assert torch.equal(state, torch.random.get_rng_state())
    assert not model.training and all(p.grad is None for p in model.parameters())
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    assert "no dropout, but the model asks for 0.1" in (flex.flex_problem(model) or "")
    monkeypatch.setattr(type(model), "_supports_flex_attn", False)
    assert "LlamaForCausalLM does not support it" in (flex.flex_problem(model) or "")


LARGER_HEADS: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 32},
    "qwen3": {"head_dim": 64},
    "gemma2": {"head_dim": 32, "layer_types": ["full_attention"] * 3},
}
"""The kernels have no heads under 16, which tiny models have."""


@pytest.mark.gpu
@pytest.mark.parametrize("family", LARGER_HEADS)
def test_cuda_trains_through_it(family: str) -> None:
    """Compiled, in fp32 and under bf16 autocast, against the dense mask in float64."""
    model = any_tiny_model(family, **LARGER_HEADS[family]).cuda().requires_grad_(True)
    for prompts in [(200, 3, 129), (500, 4), (70,)]:
        data = {name: value.cuda() for name, value in batch(prompts).items()}
        exact = train_step(model.double(), data, attention="dense")
        exact = {name: value.clone() for name, value in exact.items()}
        masked = MaskedGist(model.float(), GISTS)
        masked.logits(**data)
        assert masked.attention == "flex"
        assert_close(train_step(model, data), exact, 1e-3)
        with torch.autocast("cuda", torch.bfloat16):
            assert_close(train_step(model, data), exact, BF16_ERROR)
