"""Policy prompts and the messages they govern: the synthetic task of the embedded model.

A policy tells a support desk how to answer: which topic goes to which team at which priority, in
which reply format, with what greeting, form of address and sign-off. Every choice is drawn anew for
every policy, so a reply can only be right if the policy was read.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .wording import (
    ADDRESSES,
    AGENTS,
    COMPANIES,
    FILLERS,
    FORMAT_SENTENCES,
    FORMATS,
    GREETING_SENTENCES,
    GREETINGS,
    IMPLIED_MESSAGES,
    INTRODUCTIONS,
    LIST_RULE_SENTENCES,
    NAMED_MESSAGES,
    PLAIN_RULE_SENTENCES,
    PRIORITIES,
    RULE_SENTENCES,
    SIGN_OFF_SENTENCES,
    SIGN_OFFS,
    TEAMS,
    UNSEEN_NAMED_MESSAGES,
    UNSEEN_RULE_SENTENCES,
)

Wording = Literal["list", "plain", "seen", "unseen"]

_RULE_SENTENCES: dict[Wording, list[str]] = {
    "list": LIST_RULE_SENTENCES,
    "plain": PLAIN_RULE_SENTENCES,
    "seen": RULE_SENTENCES,
    "unseen": UNSEEN_RULE_SENTENCES,
}


@dataclass(frozen=True)
class Rule:
    """Messages on ``topic`` go to ``team`` at ``priority``."""

    topic: str
    team: str
    priority: str


@dataclass(frozen=True)
class Policy:
    """One policy: its text, and the facts that a reply must carry over."""

    text: str
    greeting: str
    address: str
    format: str
    rules: tuple[Rule, ...]
    sign_off: str
    agent: str

    def reply(self, rule: Rule) -> str:
        """The only right answer to a message on ``rule.topic``."""
        body = FORMATS[self.format].format(topic=rule.topic, team=rule.team, priority=rule.priority)
        return f"{self.greeting} {self.address}! {body} {self.sign_off}, {self.agent}"


@dataclass(frozen=True)
class Turn:
    """One user message, the reply the policy asks for, and whether the message names its topic."""

    message: str
    reply: str
    names_topic: bool


@dataclass(frozen=True)
class PolicyMix:
    """What policies are drawn: rule counts, filler sentences, wording, share of named topics."""

    min_rules: int = 3
    max_rules: int = 6
    wording: Wording = "seen"
    min_fillers: int = 0
    max_fillers: int = 5
    named_share: float = 0.5
    dialogue_share: float = 0.0


def sample_policy(rng: random.Random, mix: PolicyMix) -> Policy:
    """Draw a policy. Topics and teams are distinct within it."""
    count = rng.randint(mix.min_rules, mix.max_rules)
    topics = rng.sample(sorted(IMPLIED_MESSAGES), count)
    teams = rng.sample(TEAMS, count)
    rules = tuple(
        Rule(topic, team, rng.choice(PRIORITIES)) for topic, team in zip(topics, teams, strict=True)
    )
    choice = {
        "greeting": rng.choice(GREETINGS),
        "address": rng.choice(ADDRESSES),
        "format": "list" if mix.wording == "list" else rng.choice(sorted(FORMATS)),
        "sign_off": rng.choice(SIGN_OFFS),
        "agent": rng.choice(AGENTS),
    }
    text = _write(rng, mix, rules, choice)
    return Policy(text=text, rules=rules, **choice)


def _write(
    rng: random.Random, mix: PolicyMix, rules: Sequence[Rule], choice: dict[str, str]
) -> str:
    sentences = _RULE_SENTENCES[mix.wording]
    routing = " ".join(
        rng.choice(sentences).format(topic=r.topic, team=r.team, priority=r.priority) for r in rules
    )
    opening = rng.choice(GREETING_SENTENCES).format(**choice)
    layout = rng.choice(FORMAT_SENTENCES[choice["format"]])
    closing = rng.choice(SIGN_OFF_SENTENCES).format(**choice)
    parts = [opening, layout, routing, closing]
    rng.shuffle(parts)
    for filler in rng.sample(FILLERS, rng.randint(mix.min_fillers, mix.max_fillers)):
        parts.insert(rng.randint(0, len(parts)), filler)
    return " ".join([rng.choice(INTRODUCTIONS).format(company=rng.choice(COMPANIES)), *parts])


def sample_turn(rng: random.Random, policy: Policy, mix: PolicyMix) -> Turn:
    """Draw a message on one of the policy's topics, with its reply."""
    return _ask(rng, policy, rng.choice(policy.rules), mix)


def sample_dialogue(rng: random.Random, policy: Policy, mix: PolicyMix) -> list[Turn]:
    """Draw two to four turns, each on another rule."""
    count = min(rng.randint(2, 4), len(policy.rules))
    return [_ask(rng, policy, rule, mix) for rule in rng.sample(policy.rules, count)]


def _ask(rng: random.Random, policy: Policy, rule: Rule, mix: PolicyMix) -> Turn:
    names_topic = rng.random() < mix.named_share
    if names_topic:
        templates = UNSEEN_NAMED_MESSAGES if mix.wording == "unseen" else NAMED_MESSAGES
        message = rng.choice(templates).format(topic=rule.topic)
    else:
        message = rng.choice(IMPLIED_MESSAGES[rule.topic])
    return Turn(message, policy.reply(rule), names_topic)


def chat(policy: Policy, turn: Turn) -> list[dict[str, str]]:
    """The turn as chat messages: policy as system prompt, message, reply."""
    return [
        {"role": "system", "content": policy.text},
        {"role": "user", "content": turn.message},
        {"role": "assistant", "content": turn.reply},
    ]
