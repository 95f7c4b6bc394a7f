"""Measures of generated text against a reference."""

import re


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits, as ROUGE splits text."""
    return re.findall(r"[^\W_]+", text.lower())


def exact_match(prediction: str, reference: str) -> bool:
    """Equal but for white space at both ends."""
    return prediction.strip() == reference.strip()


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L F1 in [0, 1], from the longest common subsequence of words (Lin 2004, section 3.1).

    Without stemming. Two texts without words score 1, one of them 0.
    """
    ours, theirs = words(prediction), words(reference)
    if not ours or not theirs:
        return float(not ours and not theirs)
    common = _common_subsequence(ours, theirs)
    return 2 * common / (len(ours) + len(theirs))


def _common_subsequence(first: list[str], second: list[str]) -> int:
    best = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for column, other in enumerate(second, start=1):
            above = best[column]
            best[column] = diagonal + 1 if word == other else max(above, best[column - 1])
            diagonal = above
    return best[-1]
