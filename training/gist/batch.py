"""Batches of prompts with the turns that follow them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
from torch import Tensor

from ..padding import pad_rows

IGNORED = -100

Turns = Literal["independent", "shared"]


@dataclass(frozen=True)
class Turn:
    """What follows a prompt: tokens that are given, then tokens to be produced."""

    input_ids: list[int]
    output_ids: list[int]

    def __post_init__(self) -> None:
        if not self.input_ids or not self.output_ids:
            raise ValueError("a turn needs at least one input token and one output token")


@dataclass(frozen=True)
class GistExample:
    """One prompt and the turns that must be answered by it."""

    prompt_ids: list[int]
    turns: list[Turn]

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.turns:
            raise ValueError("an example needs at least one prompt token and one turn")


class GistBatch(TypedDict):
    """B prompts and R rows of turns, all int64, padded on the right.

    prompt_ids [B, M], prompt_lengths [B]; turn_ids [R, T], turn_prompts [R] (row of the prompt
    that each follows); labels [R, T]: the token that comes next where that is an output token,
    elsewhere `IGNORED`.
    """

    prompt_ids: Tensor
    prompt_lengths: Tensor
    turn_ids: Tensor
    turn_prompts: Tensor
    labels: Tensor


def collate(
    examples: Sequence[GistExample], pad_id: int = 0, turns: Turns = "independent"
) -> GistBatch:
    """Pad examples into one batch.

    `independent`: a row for each turn, which sees the prompt and itself. `shared`: a row for each
    example, all turns in sequence, later ones seeing the earlier (models may then learn to copy
    earlier answers instead of reading the prompt).
    """
    rows: list[tuple[list[int], list[int]]] = []
    owners: list[int] = []
    for index, example in enumerate(examples):
        parts = [_shifted(turn) for turn in example.turns]
        if turns == "shared":
            parts = [([i for ids, _ in parts for i in ids], [t for _, ts in parts for t in ts])]
        rows += parts
        owners += [index] * len(parts)
    return GistBatch(
        prompt_ids=pad_rows([example.prompt_ids for example in examples], pad_id),
        prompt_lengths=torch.tensor([len(example.prompt_ids) for example in examples]),
        turn_ids=pad_rows([ids for ids, _ in rows], pad_id),
        turn_prompts=torch.tensor(owners),
        labels=pad_rows([labels for _, labels in rows], IGNORED),
    )


def to_device(batch: GistBatch, device: torch.device) -> GistBatch:
    """The same batch on another device."""
    return GistBatch(
        prompt_ids=batch["prompt_ids"].to(device),
        prompt_lengths=batch["prompt_lengths"].to(device),
        turn_ids=batch["turn_ids"].to(device),
        turn_prompts=batch["turn_prompts"].to(device),
        labels=batch["labels"].to(device),
    )


def _shifted(turn: Turn) -> tuple[list[int], list[int]]:
    labels = [IGNORED] * (len(turn.input_ids) - 1) + turn.output_ids + [IGNORED]
    return turn.input_ids + turn.output_ids, labels
