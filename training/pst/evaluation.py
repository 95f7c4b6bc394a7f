"""Accuracy of classes, and BLEU, ROUGE-L and exact answers of texts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from sacrebleu.metrics.bleu import BLEU
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..metrics import rouge_l
from .batch import Example, prompt_ids
from .data import DataText
from .loss import asked_logits


@torch.no_grad()
def evaluate_loss(
    model: PreTrainedModel,
    examples: Sequence[Example],
    task: str,
    batch_size: int,
    collator: Callable[[Sequence[Example]], dict[str, Tensor]],
) -> dict[str, float]:
    """Mean cross-entropy `loss` (without smoothing), and `accuracy` of classes or next tokens."""
    was_training = model.training
    model.eval()
    total, right, count = 0.0, 0, 0
    # Neighbours of like length: less padding to compute.
    ordered = sorted(examples, key=lambda example: len(example["input_ids"]))
    for start in range(0, len(ordered), batch_size):
        batch = collator(ordered[start : start + batch_size])
        inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
        labels = inputs.pop("labels")
        logits, targets = asked_logits(model(**inputs).logits, labels, task)
        total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
        right += int((logits.argmax(-1) == targets).sum())
        count += len(targets)
    model.train(was_training)
    return {"loss": total / count, "accuracy": right / count}


@torch.no_grad()
def generate_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    *,
    causal: bool,
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """Greedy answers, without white space at their ends."""
    was_training = model.training
    model.eval()
    prompts = [prompt_ids(source, tokenizer, causal=causal) for source in sources]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc="writing answers", delay=5, mininterval=1):
        rows = order[start : start + batch_size]
        written = _greedy(model, tokenizer, [prompts[i] for i in rows], causal, max_new_tokens)
        for index, ids in zip(rows, written, strict=True):
            answers[index] = tokenizer.decode(ids, skip_special_tokens=True).strip()
    model.train(was_training)
    return answers


def _greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    causal: bool,
    max_new_tokens: int,
) -> list[list[int]]:
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
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


def score_texts(answers: Sequence[str], texts: Sequence[DataText]) -> dict[str, float]:
    """Corpus BLEU (sacreBLEU, 0 to 100, all references) and mean ROUGE-L F1 (0 to 1, the best)."""
    most = max(len(text.references) for text in texts)
    # sacreBLEU takes None where a text has fewer references than others; its types do not tell.
    references: list[Any] = [
        [t.references[i] if i < len(t.references) else None for t in texts] for i in range(most)
    ]
    rouge = [
        max(rouge_l(answer, reference) for reference in text.references)
        for answer, text in zip(answers, texts, strict=True)
    ]
    return {
        "bleu": float(BLEU().corpus_score(list(answers), references).score),
        "rouge_l": sum(rouge) / len(rouge),
    }
