"""Policies: every fact a reply needs stands in the policy's text, and nothing else decides it."""

import random

import pytest
from gistserve.training.demo.policy import (
    PolicyMix,
    chat,
    sample_dialogue,
    sample_policy,
    sample_turn,
)
from gistserve.training.demo.wording import (
    NAMED_MESSAGES,
    RULE_SENTENCES,
    UNSEEN_NAMED_MESSAGES,
    UNSEEN_RULE_SENTENCES,
)
from hypothesis import given
from hypothesis import strategies as st

MIXES = [
    PolicyMix(),
    PolicyMix(1, 3, "list", max_fillers=0),
    PolicyMix(3, 4, "plain"),
    PolicyMix(7, 8, max_fillers=8),
    PolicyMix(wording="unseen"),
]


@given(seed=st.integers(0, 2**32), mix=st.sampled_from(MIXES))
def test_a_policy_states_every_fact_of_its_replies(seed: int, mix: PolicyMix) -> None:
    rng = random.Random(seed)
    policy = sample_policy(rng, mix)
    assert mix.min_rules <= len(policy.rules) <= mix.max_rules
    assert len({rule.topic for rule in policy.rules}) == len(policy.rules)
    assert len({rule.team for rule in policy.rules}) == len(policy.rules)
    for fact in (policy.greeting, policy.address, policy.sign_off, policy.agent, policy.format):
        assert fact in policy.text
    for rule in policy.rules:
        sentence_start = policy.text.index(f" {rule.topic}")
        assert rule.team in policy.text[sentence_start:]
        reply = policy.reply(rule)
        for fact in (rule.topic, rule.team, rule.priority, policy.greeting, policy.agent):
            assert fact in reply


@given(seed=st.integers(0, 2**32))
def test_a_dialogue_asks_no_rule_twice(seed: int) -> None:
    rng = random.Random(seed)
    policy = sample_policy(rng, PolicyMix())
    replies = [turn.reply for turn in sample_dialogue(rng, policy, PolicyMix())]
    assert len(set(replies)) == len(replies) >= 2


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_of_messages_that_name_their_topic(share: float) -> None:
    rng = random.Random(0)
    mix = PolicyMix(named_share=share)
    policy = sample_policy(rng, mix)
    assert {sample_turn(rng, policy, mix).names_topic for _ in range(50)} == {share == 1.0}


def test_unseen_wording_is_never_used_in_training() -> None:
    assert not set(UNSEEN_RULE_SENTENCES) & set(RULE_SENTENCES)
    assert not set(UNSEEN_NAMED_MESSAGES) & set(NAMED_MESSAGES)


def test_a_seed_gives_the_same_policy_and_another_seed_another() -> None:
    texts = [sample_policy(random.Random(seed), PolicyMix()).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_chat_puts_the_policy_first() -> None:
    rng = random.Random(0)
    policy = sample_policy(rng, PolicyMix())
    turn = sample_turn(rng, policy, PolicyMix())
    assert [m["role"] for m in chat(policy, turn)] == ["system", "user", "assistant"]
    assert chat(policy, turn)[0]["content"] == policy.text
