"""Measures of generated text against a reference. The arithmetic is torchmetrics'.

It is imported by the first measure: that takes seconds, and only training installs it.
"""

import re
from collections.abc import Sequence

import torch


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits of any script, as ROUGE splits text."""
    return re.findall(r"[^\W_]+", text.lower())


def exact_match(prediction: str, reference: str) -> bool:
    """Equal but for white space at both ends."""
    return prediction.strip() == reference.strip()


def accuracy(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share in [0, 1] of predictions that equal their reference but for white space at both ends.

    ValueError for no predictions, or for another number of references.
    """
    if not predictions or len(predictions) != len(references):
        raise ValueError(
            f"accuracy needs one reference for each prediction, and at least one; "
            f"got {len(predictions)} predictions and {len(references)} references"
        )
    from torchmetrics.functional.classification import multiclass_accuracy

    known: dict[str, int] = {}
    ours, theirs = (
        torch.tensor([known.setdefault(text.strip(), len(known)) for text in texts])
        for texts in (predictions, references)
    )
    return float(multiclass_accuracy(ours, theirs, num_classes=len(known) + 1, average="micro"))


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L F1 in [0, 1], from the longest common subsequence of words (Lin 2004, section 3.1).

    Without stemming. Two texts without words score 1, one of them 0.
    """
    if not words(prediction) and not words(reference):
        return 1.0
    from torchmetrics.functional.text.rouge import rouge_score

    # `words` lowers case and drops punctuation: torchmetrics' own normaliser would drop every
    # letter outside a-z.
    scores = rouge_score(
        prediction, reference, rouge_keys="rougeL", normalizer=str, tokenizer=words
    )
    return float(scores["rougeL_fmeasure"])
