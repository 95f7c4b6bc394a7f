"""Greedy answers of a causal or an encoder-decoder model to many prompts."""

from collections.abc import Sequence

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.no_grad()
def greedy_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """What the model writes to each of `prompts` (token ids), without white space at its ends."""
    was_training = model.training
    model.eval()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc="writing answers", delay=5, mininterval=1):
        rows = order[start : start + batch_size]
        written = _batch(model, tokenizer, [prompts[i] for i in rows], max_new_tokens)
        for index, ids in zip(rows, written, strict=True):
            answers[index] = tokenizer.decode(ids, skip_special_tokens=True).strip()
    model.train(was_training)
    return answers


def _batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Sequence[int]],
    max_new_tokens: int,
) -> list[list[int]]:
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    causal = not model.config.is_encoder_decoder
    # On the left for a causal model: what it writes follows the last column.
    before = [(width - len(p)) if causal else 0 for p in prompts]
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, (prompt, skip) in enumerate(zip(prompts, before, strict=True)):
        ids[row, skip : skip + len(prompt)] = torch.tensor(prompt)
        mask[row, skip : skip + len(prompt)] = 1
    out = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad,
    )
    rows: list[list[int]] = out[:, width if causal else 1 :].tolist()
    return [_until(row, tokenizer.eos_token_id) for row in rows]


def _until(ids: list[int], end: int | None) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
