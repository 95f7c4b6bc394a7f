"""Measures against hand-counted values and a brute-force longest common subsequence."""

from itertools import combinations

import pytest
from gistserve.training.metrics import accuracy, exact_match, rouge_l, words
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torchmetrics")

LETTERS = st.lists(st.sampled_from(["a", "ß", "東京", "x1"]), max_size=7)


def subsequences(items: list[str]) -> set[tuple[str, ...]]:
    return {chosen for size in range(len(items) + 1) for chosen in combinations(items, size)}


@settings(max_examples=150, deadline=None)
@given(ours=LETTERS, theirs=LETTERS)
def test_rouge_l_equals_brute_force(ours: list[str], theirs: list[str]) -> None:
    common = max(map(len, subsequences(ours) & subsequences(theirs)))
    both = len(ours) + len(theirs)
    expected = 2 * common / both if both else 1.0
    # Case and punctuation do not count.
    measured = rouge_l(" ".join(ours).upper().replace("SS", "ß"), ", ".join(theirs) + "!")
    assert measured == pytest.approx(expected, abs=1e-6)


def test_words_of_any_script() -> None:
    assert words("Größe_3: naïve, 東京 don't!") == ["größe", "3", "naïve", "東京", "don", "t"]
    assert rouge_l("Die Größe", "die größe!") == 1
    assert rouge_l("größe", "gr e") == 0


def test_texts_without_words() -> None:
    assert rouge_l("", "?!") == 1
    assert rouge_l("a", "...") == rouge_l("", "a") == 0


@given(pairs=st.lists(st.tuples(*[st.sampled_from([" a", "a", "b\n", "B", ""])] * 2), min_size=1))
def test_accuracy_is_the_share_of_exact_matches(pairs: list[tuple[str, str]]) -> None:
    predictions, references = (list(texts) for texts in zip(*pairs, strict=True))
    expected = sum(exact_match(*pair) for pair in pairs) / len(pairs)
    assert accuracy(predictions, references) == pytest.approx(expected, abs=1e-6)


def test_accuracy_of_nothing() -> None:
    with pytest.raises(ValueError, match="at least one"):
        accuracy([], [])
    with pytest.raises(ValueError, match="2 predictions and 1 references"):
        accuracy(["a", "b"], ["a"])
