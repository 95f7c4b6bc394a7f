"""The two-pass form against the paper's single masked pass and plain forwards."""

from contextlib import nullcontext

import pytest
import torch
from gistserve.compress.adapter import GistAdapter
from gistserve.compress.config import GistConfig
from gistserve.training.gist.batch import IGNORED, GistBatch, GistExample, Turn, collate
from gistserve.training.gist.forward import PromptCaches, answer_logits, full_prompt
from gistserve.training.gist.mask import gist_mask
from gistserve.training.gist.masked import MaskedGist
from gistserve.training.gist.two_pass import TwoPassGist
from hypothesis import given, settings
from hypothesis import strategies as st

from ..compress.tiny_models import randomise, tiny_model
from ..families import VOCAB_SIZE

EXAMPLES = [
    GistExample([3, 17, 9, 41, 22, 8, 30, 5], [Turn([7, 8], [9, 2]), Turn([10], [11, 12, 13])]),
    GistExample([4, 6, 19], [Turn([20, 21, 22], [23])]),
]


def make(family: str = "llama", sink: int = 1) -> tuple:
    model = tiny_model(family)
    config = GistConfig(num_gist_tokens=2, sink_tokens=sink, lora_rank=4)
    return model, randomise(GistAdapter.create(model, config))


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """To 1e-5 of the largest value (gradients of near-zero embeddings behind an RMS norm grow)."""
    scale = max(1.0, float(theirs.detach().abs().max()))
    torch.testing.assert_close(ours, theirs, atol=1e-5 * scale, rtol=1e-5)


def student_logits(core: TwoPassGist, batch: GistBatch) -> torch.Tensor:
    states = core.compressor.compress_batch(batch["prompt_ids"], batch["prompt_lengths"])
    owners, labels = batch["turn_prompts"], batch["labels"]
    return answer_logits(core.model, PromptCaches(states), batch["turn_ids"], owners, labels)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("sink", [0, 2])
@pytest.mark.parametrize("turns", ["independent", "shared"])
def test_two_passes_equal_the_single_masked_pass(
    family: str, sink: int, turns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the LoRA on in both passes: same logits, and same gradients of every parameter."""
    model, adapter = make(family, sink)
    model.resize_token_embeddings(VOCAB_SIZE + 2, mean_resizing=False)
    gist_ids = [VOCAB_SIZE, VOCAB_SIZE + 1]
    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        embeddings[gist_ids] = adapter.gist_embeddings
    batch = collate(EXAMPLES, turns=turns)
    core = TwoPassGist(model, adapter, distill_weight=0, lm_weight=1)
    masked = MaskedGist(model, gist_ids, sink_tokens=sink)
    model.requires_grad_(True)
    with adapter.applied(model):
        single = masked.logits(**batch)
        masked(**batch)["loss"].backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    expected_lora = {n: p.grad.clone() for n, p in adapter.loras.named_parameters()}
    model.zero_grad()
    adapter.zero_grad()
    with adapter.applied(model):  # on throughout, instead of in pass 1 alone
        monkeypatch.setattr(core.compressor, "_adapter_on", nullcontext)
        close(student_logits(core, batch), single)
        core(**batch)["loss"].backward()
    with torch.no_grad():
        embeddings.grad[gist_ids] += adapter.gist_embeddings.grad
    for name, parameter in model.named_parameters():
        close(parameter.grad, expected[name])
    for name, parameter in adapter.loras.named_parameters():
        close(parameter.grad, expected_lora[name])


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "opt", "deepseek_v3"])
def test_teacher_is_the_plain_model_on_the_whole_text(family: str) -> None:
    model, _ = make(family)
    batch = collate(EXAMPLES)
    prompts = full_prompt(model, batch["prompt_ids"], batch["prompt_lengths"])
    ours = answer_logits(model, prompts, batch["turn_ids"], batch["turn_prompts"], batch["labels"])
    theirs = []
    for example in EXAMPLES:
        for turn in example.turns:
            ids = example.prompt_ids + turn.input_ids + turn.output_ids
            theirs.append(model(torch.tensor([ids])).logits[0, -len(turn.output_ids) - 1 : -1])
    close(ours, torch.cat(theirs))


def test_a_batch_is_the_sum_of_its_examples() -> None:
    model, adapter = make()
    core = TwoPassGist(model, adapter, distill_weight=0.7, lm_weight=0.3)
    whole = core(**collate(EXAMPLES, pad_id=5))
    parts = [core(**collate([example]), num_items_in_batch=6) for example in EXAMPLES]
    assert int(whole["tokens"]) == 6
    for name in ("loss", "lm", "distill"):
        close(whole[name], sum(part[name] for part in parts))


def test_losses_against_their_definition() -> None:
    model, adapter = make()
    core = TwoPassGist(model, adapter, distill_weight=2, lm_weight=3)
    batch = collate(EXAMPLES)
    student = student_logits(core, batch).log_softmax(-1)
    prompts = full_prompt(model, batch["prompt_ids"], batch["prompt_lengths"])
    teacher = answer_logits(
        model, prompts, batch["turn_ids"], batch["turn_prompts"], batch["labels"]
    ).softmax(-1)
    targets = batch["labels"][batch["labels"] != IGNORED]
    lm = torch.nn.functional.nll_loss(student, targets)
    kl = torch.nn.functional.kl_div(student, teacher, reduction="batchmean")
    result = core(**batch)
    close(result["lm"], lm.detach())
    close(result["distill"], kl.detach())
    close(result["loss"], 3 * lm + 2 * kl)


def test_training_lowers_the_loss_and_leaves_the_base_alone() -> None:
    model, adapter = make()
    before = {name: p.clone() for name, p in model.named_parameters()}
    core = TwoPassGist(model, adapter).train()
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = core(**collate(EXAMPLES))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_bfloat16_autocast_stays_near_full_precision() -> None:
    model, adapter = make()
    core = TwoPassGist(model, adapter, lm_weight=1)
    full = core(**collate(EXAMPLES))
    with torch.autocast("cpu", torch.bfloat16):
        half = core(**collate(EXAMPLES))
    half["loss"].backward()
    assert float(half["loss"]) == pytest.approx(float(full["loss"]), rel=0.05)
    assert adapter.gist_embeddings.grad.dtype == torch.float32


def test_independent_turns_do_not_see_each_other() -> None:
    model, adapter = make()
    core = TwoPassGist(model, adapter)
    for turns, same in (("independent", True), ("shared", False)):
        logits = []
        for first in ([9, 2], [33, 34]):
            example = GistExample(EXAMPLES[0].prompt_ids, [Turn([7, 8], first), Turn([10], [11])])
            logits.append(student_logits(core, collate([example], turns=turns))[-1])
        assert torch.allclose(logits[0], logits[1], atol=1e-5) == same


def test_gist_mask_row_by_row() -> None:
    """Two prompt tokens, one gist, two turn tokens."""
    rows = {
        "gist": ["10000", "11000", "11100", "00110", "00111"],
        "positive": ["10000", "11000", "11100", "11110", "11111"],
        "negative": ["10000", "11000", "11100", "00010", "00011"],
    }
    for condition, expected in rows.items():
        mask = gist_mask(torch.tensor([2]), 1, 0, 5, condition)[0].int().tolist()
        assert ["".join(map(str, row)) for row in mask] == expected
    sink = gist_mask(torch.tensor([2]), 1, 1, 5)[0].int().tolist()
    assert ["".join(map(str, row)) for row in sink][3:] == ["10110", "10111"]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(0, 1),
    st.integers(1, 4),
    st.sampled_from(["gist", "positive", "negative"]),
)
def test_gist_mask_is_its_definition(
    lengths: list[int], gists: int, sink: int, turn: int, condition: str
) -> None:
    total = max(lengths) + gists + turn
    mask = gist_mask(torch.tensor(lengths), gists, sink, total, condition)
    for row, length in enumerate(lengths):
        for query in range(total):
            for column in range(total):
                allowed = column <= query
                if query >= length + gists and condition == "gist":
                    allowed &= column < sink or column >= length
                if query >= length + gists and condition == "negative":
                    allowed &= column >= length + gists
                assert bool(mask[row, query, column]) == allowed


def test_weights_that_train_nothing_are_refused() -> None:
    model, adapter = make()
    with pytest.raises(ValueError, match="nor both zero"):
        TwoPassGist(model, adapter, distill_weight=0, lm_weight=0)
    with pytest.raises(ValueError, match="at least one"):
        GistExample([], [Turn([1], [2])])
    with pytest.raises(ValueError, match="at least one"):
        Turn([], [2])
