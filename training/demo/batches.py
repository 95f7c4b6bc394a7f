"""Training batches: each policy once, with several turns that all read it but not one another."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from .policy import PolicyMix, Turn, sample_dialogue, sample_policy, sample_turn
from .tokenizer import BOS, END, ROLES

IGNORED = -100
POOL = 8


@dataclass(frozen=True)
class PolicyBatch:
    """B policies with N rows of turns each. A row sees its policy and itself, no other row.

    policy_ids: [B, P] int64, padded on the right; policy_lengths: [B] int64.
    turn_ids: [B * N, T] int64, padded on the right, rows of one policy adjacent.
    labels: [B * N, T] int64, the next token at reply positions, elsewhere ``IGNORED``.
    """

    policy_ids: Tensor
    policy_lengths: Tensor
    turn_ids: Tensor
    labels: Tensor

    @property
    def turns_per_policy(self) -> int:
        return len(self.turn_ids) // len(self.policy_ids)


def policy_batches(
    tokenizer: PreTrainedTokenizerFast,
    rng: random.Random,
    mix: PolicyMix,
    *,
    policies: int,
    turns: int,
    pool: int = POOL,
) -> Iterator[PolicyBatch]:
    """One pool of batches; policies of like length share one, so little is spent on padding.

    Most batches hold ``turns`` single turns a policy; a ``mix.dialogue_share`` of them hold one
    dialogue of several turns a policy, in which no rule is asked twice: a model that may find its
    own earlier answer learns to copy it, and does not learn to read the policy.
    """
    drawn = [sample_policy(rng, mix) for _ in range(policies * pool)]
    ids = _encode(tokenizer, [f"{BOS}{ROLES['system']}{p.text}{END}" for p in drawn])
    order = sorted(range(len(drawn)), key=lambda i: len(ids[i]))
    groups = [order[i : i + policies] for i in range(0, len(order), policies)]
    rng.shuffle(groups)
    for group in groups:
        chosen = [drawn[i] for i in group]
        if rng.random() < mix.dialogue_share:
            rows = [[sample_dialogue(rng, policy, mix)] for policy in chosen]
        else:
            rows = [[[sample_turn(rng, policy, mix)] for _ in range(turns)] for policy in chosen]
        yield _batch(tokenizer, [ids[i] for i in group], [turns for row in rows for turns in row])


def _batch(
    tokenizer: PreTrainedTokenizerFast, policy_ids: list[list[int]], rows: list[list[Turn]]
) -> PolicyBatch:
    pad: int = tokenizer.pad_token_id
    heads = iter(_encode(tokenizer, [_head(turn) for row in rows for turn in row]))
    tails = iter(_encode(tokenizer, [f"{turn.reply}{END}" for row in rows for turn in row]))
    turn_ids: list[list[int]] = []
    labels: list[list[int]] = []
    for row in rows:
        ids: list[int] = []
        targets: list[int] = []
        for _ in row:
            head, tail = next(heads), next(tails)
            ids += head + tail
            targets += [IGNORED] * len(head) + tail
        turn_ids.append(ids)
        labels.append([*targets[1:], IGNORED])
    return PolicyBatch(
        policy_ids=_pad(policy_ids, pad),
        policy_lengths=torch.tensor([len(ids) for ids in policy_ids]),
        turn_ids=_pad(turn_ids, pad),
        labels=_pad(labels, IGNORED),
    )


def _head(turn: Turn) -> str:
    return f"{ROLES['user']}{turn.message}{END}{ROLES['assistant']}"


def _encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def _pad(rows: list[list[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])
