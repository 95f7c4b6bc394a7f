"""Log-probabilities and divergences by chunks, against dense ones in float64."""

from typing import Any

import pytest
import torch
from gistserve.training.config import ConfigError
from gistserve.training.minillm import token_measures
from gistserve.training.minillm.split_model import SplitModel
from gistserve.training.minillm.token_measures import compare_tokens, token_log_probs
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from .tiny_pairs import tiny_gpt2, tiny_llama

WORDS = 50


def inputs(rows: int = 21) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    ours = torch.randn(rows, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    theirs = torch.randn(rows, 12, generator=generator, dtype=torch.float64)
    return ours, theirs, torch.randint(WORDS, (rows,), generator=generator)


@pytest.fixture
def chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_measures, "_CHUNK_ELEMENTS", 5 * WORDS)


def dense(
    student: PreTrainedModel, teacher: PreTrainedModel, divergence: str, *states: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    ours, theirs, targets = states
    q = student.lm_head(ours).double().log_softmax(-1)
    p = teacher.lm_head(theirs).double().log_softmax(-1)
    a, b = (q, p) if divergence == "reverse" else (p, q)
    return q[torch.arange(len(q)), targets], (a.exp() * (a - b)).sum(-1)


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
def test_as_dense(chunked: None, divergence: Any) -> None:
    student, teacher = tiny_gpt2(0, WORDS), tiny_gpt2(1, WORDS, width=12)
    ours, theirs, targets = inputs()
    found = compare_tokens(
        SplitModel(student), ours, SplitModel(teacher), theirs, targets, divergence=divergence
    )
    expected = dense(student, teacher, divergence, ours, theirs, targets)
    alone = token_log_probs(SplitModel(student), ours, targets)
    torch.testing.assert_close((*found, alone), (*expected, expected[0]))
    gradients = []
    for log_probs, distance in (found, expected):
        ((log_probs + distance) * torch.arange(len(targets))).sum().backward()
        gradients.append((ours.grad, student.lm_head.weight.grad, teacher.lm_head.weight.grad))
        ours.grad = None
        student.zero_grad()
    torch.testing.assert_close(gradients[0][:2], gradients[1][:2])
    assert gradients[0][2] is None, "the teacher learns"


def test_in_bfloat16(chunked: None) -> None:
    """Computed in bfloat16, summed in float32; the backward pass too."""
    student, teacher = tiny_gpt2(0, WORDS), tiny_gpt2(1, WORDS, width=12)
    ours, theirs, targets = inputs()
    expected = dense(student, teacher, "reverse", ours, theirs, targets)
    expected[1].sum().backward()
    truth, ours.grad = ours.grad, None
    student.float()
    half = teacher.bfloat16()
    single = ours.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = compare_tokens(
            SplitModel(student), single, SplitModel(half), theirs.bfloat16(), targets,
            divergence="reverse",
        )  # fmt: skip
    assert {tensor.dtype for tensor in found} == {torch.float32}
    torch.testing.assert_close([t.double() for t in found], list(expected), atol=0.1, rtol=0.05)
    found[1].sum().backward()
    torch.testing.assert_close(single.grad.double(), truth, atol=0.1, rtol=0.1)


def test_no_logits_of_all_positions_are_kept(chunked: None) -> None:
    student, teacher = tiny_gpt2(0, WORDS), tiny_gpt2(1, WORDS, width=12)
    ours, theirs, targets = inputs(rows=100)
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compare_tokens(
            SplitModel(student), ours, SplitModel(teacher), theirs, targets, divergence="reverse"
        )
    assert sum(kept) < 100 * WORDS / 2


def test_rows_that_one_model_has_alone() -> None:
    """The longer head counts as if it were cut, whichever model has it."""
    ours, theirs, _ = inputs()
    targets = torch.arange(len(ours)) % 40
    short = tiny_gpt2(0, 40), tiny_gpt2(1, 40, width=12)
    long = tiny_gpt2(0, WORDS), tiny_gpt2(1, WORDS, width=12)
    for wide, narrow in zip(long, short, strict=True):
        with torch.no_grad():
            wide.lm_head.weight.mul_(5)[:40] = narrow.lm_head.weight
    expected = dense(*short, "reverse", ours, theirs, targets)
    for student, teacher in ((long[0], short[1]), (short[0], long[1])):
        found = compare_tokens(
            SplitModel(student), ours, SplitModel(teacher), theirs, targets, divergence="reverse"
        )
        torch.testing.assert_close(found, expected)
    compare_tokens(
        SplitModel(long[0]), ours, SplitModel(short[1]), theirs, targets, divergence="reverse"
    )[1].sum().backward()
    assert not long[0].lm_head.weight.grad[40:].any()


SIZES = {
    "vocab_size": 32,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
}


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SIZES, final_logit_softcapping=0.5, pad_token_id=0),
        CohereConfig(**SIZES, logit_scale=0.1, pad_token_id=0, bos_token_id=1, eos_token_id=2),
        GraniteConfig(**SIZES, logits_scaling=6.0),
    ],
    ids=lambda config: config.model_type,
)
def test_heads_that_change_their_logits(config: Any) -> None:
    """The constructor compares with the model's own logits."""
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    split = SplitModel(model)
    torch.testing.assert_close(split.logits(split.states(ids)), model(ids).logits)


def test_a_head_that_is_not_known() -> None:
    class Doubled(LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 2
            return output

    with pytest.raises(ConfigError, match="Doubled makes its logits in a way"):
        SplitModel(Doubled(tiny_llama(0).config))
