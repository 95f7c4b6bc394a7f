"""From texts to token ids, and from those to batches."""

import logging
from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..padding import pad_rows
from ..records import DataError
from ..text_ids import IGNORED, answer_ids, prompt_ids
from .data import DataText, LabelledText

logger = logging.getLogger(__name__)


class Example(TypedDict):
    """Token ids of an input, and what is to come of it: a class, or token ids."""

    input_ids: list[int]
    target: int | list[int]


def classification_examples(
    texts: Sequence[LabelledText],
    labels: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
) -> list[Example]:
    """Texts with the tokenizer's special tokens, cut to `max_tokens`.

    A tokenizer that adds none gets its end token in front, so that the first position, which many
    encoders classify by, is always the same token.
    """
    ids = {label: index for index, label in enumerate(labels)}
    first = [text.text for text in texts]
    pairs = None if texts[0].pair is None else [text.pair or "" for text in texts]
    added = tokenizer.num_special_tokens_to_add(pair=pairs is not None)
    front = [tokenizer.eos_token_id] if not added and tokenizer.eos_token_id is not None else []
    rows = tokenizer(first, pairs, truncation=True, max_length=max_tokens - len(front)).input_ids
    return [
        Example(input_ids=front + row, target=ids[text.label])
        for row, text in zip(rows, texts, strict=True)
    ]


def text_examples(
    texts: Sequence[DataText], tokenizer: PreTrainedTokenizerBase, max_tokens: int, *, causal: bool
) -> list[Example]:
    """An example for every reference: the input, and the reference with an end token.

    Those of more than `max_tokens` are left out. Raises DataError where none is left, or the
    tokenizer has no end token.
    """
    examples = []
    total = 0
    for text in texts:
        prompt = prompt_ids(text.source, tokenizer, causal=causal)
        for reference in text.references:
            total += 1
            target = answer_ids(reference, tokenizer, causal=causal)
            if max(len(prompt) + len(target) if causal else len(prompt), len(target)) <= max_tokens:
                examples.append(Example(input_ids=prompt, target=target))
    if not examples:
        raise DataError(f"all {total} examples are over {max_tokens} tokens; raise max_tokens")
    if len(examples) < total:
        logger.warning(
            "%d of %d examples are over %d tokens and left out",
            total - len(examples),
            total,
            max_tokens,
        )
    return examples


def collate(
    examples: Sequence[Example], task: str, pad_id: int, start_id: int = 0
) -> dict[str, Tensor]:
    """A batch padded on the right: input_ids, attention_mask, labels.

    Labels are classes [B] int64, or token ids [B, T] with `IGNORED` where nothing is asked: for
    `causal` at the place of the token itself, as transformers has it. `seq2seq` brings
    decoder_input_ids [B, T] as well: the labels one to the right, behind `start_id`.
    """
    rows = [example["input_ids"] for example in examples]
    targets = [example["target"] for example in examples]
    texts = [target for target in targets if isinstance(target, list)]
    batch: dict[str, Tensor] = {}
    if task == "causal":
        given = [[IGNORED] * len(row) for row in rows]
        rows = [row + target for row, target in zip(rows, texts, strict=True)]
        texts = [none + target for none, target in zip(given, texts, strict=True)]
    if task == "seq2seq":
        batch["decoder_input_ids"] = pad_rows([[start_id, *text[:-1]] for text in texts], pad_id)
    lengths = torch.tensor([len(row) for row in rows])
    batch["input_ids"] = pad_rows(rows, pad_id)
    batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()
    batch["labels"] = torch.tensor(targets) if not texts else pad_rows(texts, IGNORED)
    return batch
