"""Accuracy of classes, and BLEU, ROUGE-L and exact answers of texts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from sacrebleu.metrics.bleu import BLEU
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..greedy import greedy_answers
from ..metrics import rouge_l
from ..text_ids import prompt_ids
from .batch import Example
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
    prompts = [prompt_ids(source, tokenizer, causal=causal) for source in sources]
    return greedy_answers(
        model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size
    )


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
