"""From texts to token ids, and from those to batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..padding import pad_rows
from ..text_ids import IGNORED, answer_ids, prompt_ids
from .tasks import TaskText


class Row(NamedTuple):
    """Token ids of one text to learn."""

    task: int
    prompt: list[int]
    target: list[int]


class Example(TypedDict):
    """The rows of one record; `input_ids` is its longest, by which like lengths are gathered."""

    rows: list[Row]
    input_ids: list[int]


@dataclass
class Encoder:
    """Texts to token ids, cut to the longest allowed; counts what it cut of examples."""

    tokenizer: PreTrainedTokenizerBase
    causal: bool
    max_input_tokens: int
    max_target_tokens: int
    cut: dict[str, int] = field(default_factory=lambda: {"inputs": 0, "targets": 0})

    def __post_init__(self) -> None:
        empty = prompt_ids("", self.tokenizer, causal=self.causal)
        self._behind = empty if self.causal else empty[-1:]

    def prompt(self, source: str) -> list[int]:
        """An input as the model is given it. One that is cut keeps the arrow, or end token."""
        ids = prompt_ids(source, self.tokenizer, causal=self.causal)
        return _cut(ids, self.max_input_tokens, self._behind)

    def target(self, answer: str) -> list[int]:
        """What is to be written, with an end token. One that is cut keeps it."""
        ids = answer_ids(answer, self.tokenizer, causal=self.causal)
        return _cut(ids, self.max_target_tokens, ids[-1:])

    def example(self, texts: Sequence[TaskText]) -> Example:
        """All rows of a record."""
        rows = [self._row(text) for text in texts]
        longest = max(rows, key=lambda row: len(row.prompt) + len(row.target))
        return Example(rows=rows, input_ids=longest.prompt + longest.target)

    def _row(self, text: TaskText) -> Row:
        prompt = prompt_ids(text.source, self.tokenizer, causal=self.causal)
        target = answer_ids(text.target, self.tokenizer, causal=self.causal)
        self.cut["inputs"] += len(prompt) > self.max_input_tokens
        self.cut["targets"] += len(target) > self.max_target_tokens
        return Row(
            text.task,
            _cut(prompt, self.max_input_tokens, self._behind),
            _cut(target, self.max_target_tokens, target[-1:]),
        )


def collate_causal(examples: Sequence[Example], pad_id: int) -> dict[str, Tensor]:
    """R rows padded on the right, for a causal model.

    input_ids, attention_mask [R, W]; logits_to_keep [T]: the columns behind which some row has an
    answer token; labels [R, T]: the token that comes next there, or `IGNORED`; tasks [R]. int64.
    """
    rows = [row for example in examples for row in example["rows"]]
    ids = pad_rows([row.prompt + row.target[:-1] for row in rows], pad_id)
    following = [[IGNORED] * (len(row.prompt) - 1) + row.target for row in rows]
    labels = pad_rows(following, IGNORED)
    columns = (labels != IGNORED).any(0).nonzero().flatten()
    return {
        "input_ids": ids,
        "attention_mask": _mask(ids, following),
        "logits_to_keep": columns,
        "labels": labels[:, columns],
        "tasks": torch.tensor([row.task for row in rows]),
    }


def collate_encoder_decoder(
    examples: Sequence[Example], pad_id: int, start_id: int
) -> dict[str, Tensor]:
    """R rows padded on the right: input_ids, attention_mask [R, W], tasks [R], labels [R, T].

    decoder_input_ids [R, T] are the labels one to the right, behind `start_id`. All int64.
    """
    rows = [row for example in examples for row in example["rows"]]
    prompts = [row.prompt for row in rows]
    ids = pad_rows(prompts, pad_id)
    return {
        "input_ids": ids,
        "attention_mask": _mask(ids, prompts),
        "decoder_input_ids": pad_rows([[start_id, *row.target[:-1]] for row in rows], pad_id),
        "labels": pad_rows([row.target for row in rows], IGNORED),
        "tasks": torch.tensor([row.task for row in rows]),
    }


def _cut(ids: list[int], longest: int, behind: list[int]) -> list[int]:
    """At most `longest` of the ids, which then end in `behind` as they did."""
    return ids if len(ids) <= longest else ids[: longest - len(behind)] + behind


def _mask(ids: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
    lengths = torch.tensor([len(row) for row in rows])
    return (torch.arange(ids.shape[1]) < lengths[:, None]).long()
