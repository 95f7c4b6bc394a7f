"""Objectives: what is predicted, and that packed documents never see each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gistserve.training.config import ConfigError
from gistserve.training.continual.causal import CausalObjective
from gistserve.training.continual.example import IGNORED, Example
from gistserve.training.continual.loss import summed_loss
from gistserve.training.continual.masked_tokens import MaskedObjective
from gistserve.training.continual.objective import (
    AUTO_MODELS,
    Objective,
    check_packing,
    make_objective,
)
from gistserve.training.continual.packing import Piece
from transformers import AutoConfig, PreTrainedModel
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

from .texts import word_tokenizer

TOKENIZER = word_tokenizer()
VOCABULARY = len(TOKENIZER)
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "initializer_range": 0.3,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("causal", {"num_key_value_heads": 1, "head_dim": 8}),
    "mistral": ("causal", {"num_key_value_heads": 1, "sliding_window": 4}),
    "gpt2": ("causal", {}),
    "bert": ("masked", {}),
    "roberta": ("masked", {}),
    "t5": (
        "span_corruption",
        {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
        | {"decoder_start_token_id": 1, "initializer_factor": 2.0},
    ),
}


def model_of(kind: str, attention: str = "sdpa", **changes: Any) -> PreTrainedModel:
    name, sizes = MODELS.get(kind, ("causal", {}))
    config = AutoConfig.for_model(kind, **(SMALL | sizes | changes))
    torch.manual_seed(0)
    model = AUTO_MODELS[name].from_config(config, attn_implementation=attention)
    return model.eval()


def objective_of(kind: str, model: PreTrainedModel, length: int = 32) -> Objective:
    name = MODELS.get(kind, ("causal", {}))[0]
    return make_objective(
        name,  # type: ignore[arg-type]
        model,
        TOKENIZER,
        length=length,
        share=0.3,
        mean_span=2.0,
    )


def piece(length: int, seed: int = 0, following: int | None = None) -> Piece:
    return Piece(np.random.default_rng(seed).integers(16, VOCABULARY, length), following)


def examples_of(objective: Objective, lengths: Sequence[int]) -> list[Example]:
    generator = np.random.default_rng(1)
    return [objective.example(piece(n, seed), generator) for seed, n in enumerate(lengths)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_a_packed_document_has_the_logits_that_it_has_alone(kind: str, attention: str) -> None:
    model = model_of(kind, attention).double()
    objective = objective_of(kind, model)
    first, second = examples_of(objective, [5, 9, 2, 7]), examples_of(objective, [11, 12])
    packed = objective.logits(model, objective.batch([first, second]))
    for row, examples in zip(packed, (first, second), strict=True):
        start = 0
        for example in examples:
            alone = objective.logits(model, objective.batch([[example]]))[0]
            assert torch.allclose(row[start : start + len(alone)], alone, atol=1e-5)
            start += len(alone)


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_the_logits_alone_are_those_of_the_model_alone(kind: str) -> None:
    """The oracle: the model called as transformers documents it, without masks or positions."""
    model = model_of(kind)
    objective = objective_of(kind, model)
    (example,) = examples_of(objective, [9])
    inputs: dict[str, Any] = {"input_ids": torch.from_numpy(example.inputs)[None]}
    if kind == "t5":
        inputs["decoder_input_ids"] = torch.from_numpy(example.decoder_inputs)[None]
    ours = objective.logits(model, objective.batch([[example]]))
    assert torch.allclose(ours, model(**inputs).logits, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_padding_changes_nothing_and_gives_no_nan(kind: str) -> None:
    model = model_of(kind)
    objective = objective_of(kind, model)
    short, long = examples_of(objective, [3, 14])
    batch = objective.batch([[short], [long]])
    together = summed_loss(objective.logits(model, batch), batch["labels"])
    alone = 0.0
    for example in (short, long):
        single = objective.batch([[example]])
        with torch.no_grad():
            alone += float(summed_loss(objective.logits(model, single), single["labels"]))
    assert together.item() == pytest.approx(alone, rel=1e-4)
    together.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_model_that_mixes_documents_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("gpt2")
    check_packing(CausalObjective(), model, 16)
    monkeypatch.setattr(CausalObjective, "batch", _without_positions)
    with pytest.raises(ConfigError, match="GPT2LMHeadModel mixes documents"):
        check_packing(CausalObjective(), model, 16)


def _without_positions(self: CausalObjective, rows: Sequence[Sequence[Example]]) -> dict:
    inputs = torch.from_numpy(np.concatenate([example.inputs for example in rows[0]]))[None]
    return {"input_ids": inputs, "position_ids": torch.arange(inputs.shape[1])[None]}


def test_a_recurrent_model_is_refused() -> None:
    sizes = {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 1, "vocab_size": VOCABULARY}
    model = AUTO_MODELS["causal"].from_config(AutoConfig.for_model("mamba", **sizes))
    with pytest.raises(ConfigError, match="MambaForCausalLM takes no position_ids"):
        check_packing(CausalObjective(), model, 16)


def test_flash_attention_gets_one_row_of_many_documents() -> None:
    """It knows packed sequences only in batches of one, by positions that begin again."""

    class Spy(torch.nn.Module):
        config = type("Config", (), {"_attn_implementation": "flash_attention_2"})()

        def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, **_: Any) -> Any:
            self.position_ids = position_ids
            return type("Output", (), {"logits": input_ids[..., None].float()})()

    objective, spy = CausalObjective(), Spy()
    rows = [examples_of(objective, [5, 3]), examples_of(objective, [8])]
    batch = objective.batch(rows)
    logits = objective.logits(spy, batch)
    assert torch.equal(logits[..., 0].long(), batch["input_ids"])
    (starts, _), (longest, _) = prepare_fa_kwargs_from_position_ids(spy.position_ids)
    assert starts.tolist() == [0, 5, 8, 16]
    assert longest == 8


def test_masks_and_attention_that_do_not_go_together() -> None:
    model = model_of("bert")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigError, match="attn_implementation: flash_attention_2 cannot keep"):
        objective_of("bert", model)


def test_causal_labels_are_the_next_tokens() -> None:
    objective = CausalObjective()
    generator = np.random.default_rng(0)
    begun = objective.example(Piece(np.array([5, 6, 7]), following=8), generator)
    ended = objective.example(Piece(np.array([8, 2]), following=None), generator)
    batch = objective.batch([[begun, ended]])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["labels"].tolist() == [[6, 7, 8, 2, IGNORED]]


def test_masked_tokens_are_80_10_10() -> None:
    objective = MaskedObjective(TOKENIZER, share=0.15)
    tokens = np.tile(np.array([16, 17, 18, 2]), 25_000)
    example = objective.example(Piece(tokens, None), np.random.default_rng(0))
    chosen = example.labels != IGNORED
    assert (example.labels[chosen] == tokens[chosen]).all()
    assert (example.inputs[~chosen] == tokens[~chosen]).all()
    assert not chosen[tokens == 2].any()
    assert chosen[tokens != 2].mean() == pytest.approx(0.15, abs=0.005)
    masked = (example.inputs[chosen] == TOKENIZER.mask_token_id).mean()
    kept = (example.inputs[chosen] == tokens[chosen]).mean()
    assert masked == pytest.approx(0.8, abs=0.01)
    ordinary = VOCABULARY - len(TOKENIZER.all_special_ids)
    assert kept == pytest.approx(0.1 + 0.1 / ordinary, abs=0.01)
    put = set(example.inputs[chosen]) - {TOKENIZER.mask_token_id}
    assert not put & set(TOKENIZER.all_special_ids)
    assert len(put) == ordinary


def test_positions_of_roberta_begin_behind_its_padding_id() -> None:
    model = model_of("roberta")
    objective = objective_of("roberta", model)
    batch = objective.batch([examples_of(objective, [2, 3])])
    assert batch["position_ids"].tolist() == [[2, 3, 2, 3, 4]]


@pytest.mark.parametrize("length", [2, 3, 10, 32])
def test_span_corruption_can_be_undone(length: int) -> None:
    objective = objective_of("t5", model_of("t5"))
    sentinels = TOKENIZER.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(12)])
    for seed in range(20):
        whole = piece(length, seed)
        example = objective.example(whole, np.random.default_rng(seed))
        assert example.labels[-1] == TOKENIZER.eos_token_id
        assert example.decoder_inputs.tolist() == [1, *example.labels[:-1]]
        spans = _spans(example.labels[:-1].tolist(), sentinels)
        restored: list[int] = []
        for token in example.inputs.tolist():
            restored += spans.pop(token) if token in spans else [token]
        assert restored == whole.tokens.tolist()
        assert not spans
        removed = length - sum(token not in sentinels for token in example.inputs)
        assert removed == min(max(round(length * 0.3), 1), length - 1)


def _spans(labels: list[int], sentinels: list[int]) -> dict[int, list[int]]:
    """Removed tokens by their sentinel. The kept runs, between them, have the same sentinels."""
    spans: dict[int, list[int]] = {}
    for token in labels:
        if token in sentinels:
            last = spans[token] = []
        else:
            last.append(token)
    return spans


def test_a_piece_of_one_token_is_left_out_of_span_corruption() -> None:
    model = model_of("t5")
    objective = objective_of("t5", model)
    single, other = examples_of(objective, [1, 6])
    assert len(single.inputs) == len(single.labels) == len(single.decoder_inputs) == 0
    assert torch.equal(
        objective.batch([[single, other]])["input_ids"], objective.batch([[other]])["input_ids"]
    )


def test_what_an_objective_needs_of_the_tokenizer() -> None:
    bare = word_tokenizer()
    bare.mask_token = None
    with pytest.raises(ConfigError, match="masked needs a tokenizer with a mask token"):
        MaskedObjective(bare)
    with pytest.raises(ConfigError, match=r"has up to 30 spans, but the tokenizer only 12"):
        objective_of("t5", model_of("t5"), length=200)
