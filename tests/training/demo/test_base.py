"""Pre-training of the embedded model, at a size that takes seconds."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gistserve.training.demo.attention import NAME as POLICY_ATTENTION
from gistserve.training.demo.base import (
    BaseConfig,
    BaseTrainer,
    Stage,
    build_model,
    exact_match,
    policy_logits,
)
from gistserve.training.demo.batches import IGNORED, policy_batches
from gistserve.training.demo.policy import PolicyMix
from gistserve.training.demo.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(0, policies=800)
EASY = Stage(PolicyMix(1, 2, "list", max_fillers=0), exact_match=-1.0)
LAST = Stage(PolicyMix(2, 3, dialogue_share=0.5), exact_match=2.0)
TINY = BaseConfig(
    steps=4,
    policies=2,
    turns=2,
    hidden_size=32,
    layers=2,
    heads=2,
    head_dim=16,
    intermediate_size=48,
    save_every=2,
    curriculum=(LAST,),
)


@pytest.mark.parametrize("dialogues", [0.0, 1.0])
def test_shared_prefix_logits_equal_a_plain_forward(dialogues: float) -> None:
    torch.manual_seed(0)
    model = build_model(TINY, TOKENIZER)
    mix = PolicyMix(max_fillers=3, dialogue_share=dialogues)
    batch = next(policy_batches(TOKENIZER, random.Random(1), mix, policies=3, turns=2))
    model.set_attn_implementation(POLICY_ATTENTION)
    logits, targets, rows = policy_logits(model, batch)
    model.set_attn_implementation("eager")
    for row in range(len(batch.turn_ids)):
        policy = row // batch.turns_per_policy
        prompt = batch.policy_ids[policy, : batch.policy_lengths[policy]]
        wanted = batch.labels[row] != IGNORED
        alone = model(torch.cat([prompt, batch.turn_ids[row]])[None]).logits[0, len(prompt) :]
        torch.testing.assert_close(logits[rows == row], alone[wanted], atol=1e-5, rtol=1e-4)
        assert torch.equal(targets[rows == row], batch.labels[row][wanted])


def test_labels_are_the_tokens_of_the_replies_that_come_next() -> None:
    batch = next(policy_batches(TOKENIZER, random.Random(1), PolicyMix(), policies=2, turns=2))
    for ids, labels in zip(batch.turn_ids, batch.labels, strict=True):
        where = (labels != IGNORED).nonzero()[:, 0]
        assert torch.equal(ids[where + 1], labels[where])
        reply = TOKENIZER.decode(labels[where])
        assert reply.endswith("<|end|>") and "<|user|>" not in reply


def test_exact_match_is_per_row() -> None:
    logits = torch.eye(4)[[0, 1, 2, 3]]
    targets = torch.tensor([0, 1, 2, 0])
    assert exact_match(logits, targets, torch.tensor([0, 0, 1, 1])).tolist() == [1.0, 0.0]


def test_the_first_layer_starts_by_looking_back() -> None:
    config = BaseConfig()
    torch.manual_seed(0)
    model = build_model(config, TOKENIZER).eval()
    model.set_attn_implementation("eager")
    ids = torch.randint(10, len(TOKENIZER), (1, 40))
    weights = model(ids, output_attentions=True).attentions[0][0]
    for head in range(config.heads):
        peaks = weights[head, 20:].argmax(-1)
        assert torch.equal(peaks, torch.arange(20, 40) - head - 1)


def test_a_stopped_run_goes_on_exactly_where_it_stood(tmp_path: Path) -> None:
    whole = BaseTrainer(TOKENIZER, TINY, tmp_path / "whole").run().state_dict()
    folder = tmp_path / "stopped"
    stopped = BaseTrainer(TOKENIZER, TINY, folder)
    stopped.run_until(2)
    resumed = BaseTrainer(TOKENIZER, TINY, folder).run().state_dict()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_other_settings_do_not_resume_a_run(tmp_path: Path) -> None:
    BaseTrainer(TOKENIZER, TINY, tmp_path).run_until(2)
    with pytest.raises(ValueError, match="other settings"):
        BaseTrainer(TOKENIZER, replace(TINY, learning_rate=1e-4), tmp_path).run()


def test_the_curriculum_moves_on_when_a_stage_is_mastered(tmp_path: Path) -> None:
    config = replace(TINY, steps=30, policies=1, turns=1, curriculum=(EASY, LAST))
    trainer = BaseTrainer(TOKENIZER, config, tmp_path)
    trainer.run()
    assert trainer.stage == 1 and trainer.stage_start == 25
