"""How answers are scored."""

import pytest
from gistserve.training.step_by_step.scores import choices, score_answers

pytest.importorskip("torchmetrics")

QUESTION = "What is this?\nAnswer Choices:\n(a) park\n(b) coloring book\n(c) math problem"


def test_texts_must_be_equal() -> None:
    answers = ["park ", "Park", "park bench", None]
    scores = score_answers(answers, ["park"] * 4, [""] * 4, "text")
    assert scores == pytest.approx({"accuracy": 0.25, "unreadable": 0.25})


def test_choices_are_those_of_the_input() -> None:
    assert choices(QUESTION) == ["park", "coloring book", "math problem"]
    answers = ["math problem", "park", "tree", None]
    scores = score_answers(answers, ["math problem"] * 4, [QUESTION] * 4, "choices")
    assert scores == pytest.approx({"accuracy": 0.25, "listed": 0.5, "unreadable": 0.25})


def test_equations_count_by_value_and_by_spelling() -> None:
    answers = ["(8 / 2)", "2 + 2", "( 8.0 / 2.0 ) * 2", "eight", "", None, "4 / 0"]
    scores = score_answers(answers, ["( 8.0 / 2.0 )"] * 7, [""] * 7, "equation")
    assert scores == pytest.approx({"accuracy": 2 / 7, "exact_match": 1 / 7, "unreadable": 1 / 7})


def test_what_cannot_be_read_is_never_right() -> None:
    """Not even where the label is no equation either."""
    scores = score_answers(["nonsense", None], ["none", "none"], ["", ""], "equation")
    assert scores["accuracy"] == scores["exact_match"] == 0.0
