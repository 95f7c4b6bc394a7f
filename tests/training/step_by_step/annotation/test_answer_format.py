"""Reading teachers' answers: by hand, by the original loader's rule, and by properties."""

import re

import pytest
from gistserve.training.step_by_step.annotation.answer_format import (
    AnswerFormat,
    Explained,
    UnparsableError,
)
from hypothesis import assume, given
from hypothesis import strategies as st

PLAIN = AnswerFormat()
CHOICES = AnswerFormat(label_pattern=r"\([a-z]\)\s*(.+)")
EQUATION = AnswerFormat(label_pattern=r"\(.*\)")

# Neither markers nor the next example can come about in these.
WORDS = st.lists(
    st.sampled_from(["the", "park,", "is", "(b)", "dogs.", "3", "*", "Größe\nor"]), min_size=1
)
RATIONALES = WORDS.map(" ".join)
LABELS = st.lists(st.sampled_from(["park", "(3 * 4)", "St.", "Größe", "is"]), min_size=1).map(
    " ".join
)
INVENTED = st.sampled_from(["", "\n\nQ: What?\nA: It is. So the answer is no.", " Q: a", "\nQ:"])


@given(RATIONALES, LABELS, INVENTED, st.sampled_from(["So the answer is", "The answer is"]))
def test_what_was_written_is_read(rationale: str, label: str, invented: str, marker: str) -> None:
    assume(not label.endswith("."))
    written = f" {rationale} {marker} {label}.{invented}"
    assert PLAIN.read(written) == (rationale.strip(), label)


@given(st.text(alphabet="Qa:( )\n.so the answer is", max_size=80) | st.text(), st.booleans())
def test_any_text_is_read_or_unparsable(text: str, cut_off: bool) -> None:
    for answer_format in (PLAIN, CHOICES, EQUATION):
        try:
            rationale, label = answer_format.read(text, cut_off=cut_off)
        except UnparsableError as error:
            assert str(error)
            continue
        assert rationale == rationale.strip() != ""
        assert label == label.strip() != ""
        assert text.index(rationale) < text.index(label, len(rationale))
        assert "\n" not in label


def original_cqa(output: str) -> tuple[str, str]:
    """As the loader of the paper reads it; it fails where the marker is not there once."""
    kept = output.split("Q:")[0].rstrip()
    rationale, label = kept.split("So the answer is")
    label = re.split(r"\(.\)", label)[1].strip()
    return rationale.strip(), label.removesuffix(".")


def original_svamp(output: str) -> tuple[str, str]:
    rationale, label = output.split("Q:")[0].rstrip().split("The answer is")
    found = re.search(r"\(.*\)", label)
    assert found is not None
    return rationale.strip(), found[0]


@given(RATIONALES, st.sampled_from("abcde"), st.sampled_from(["park", "ice cream"]), INVENTED)
def test_choices_are_read_as_by_the_original_loader(
    rationale: str, letter: str, choice: str, invented: str
) -> None:
    output = f"{rationale} So the answer is ({letter}) {choice}.{invented}"
    assert CHOICES.read(output) == original_cqa(output)


@given(RATIONALES, st.sampled_from(["(3 + 4)", "((3 + 4) * 2.5)"]), INVENTED)
def test_equations_are_read_as_by_the_original_loader(
    rationale: str, equation: str, invented: str
) -> None:
    output = f"{rationale} The answer is {equation}.{invented}"
    assert EQUATION.read(output) == original_svamp(output)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dogs run. Thus, the answer is: **park**.", ("Dogs run. Thus,", "park")),
        ('A. So the answer is "park".\nThe answer is not sea.', ("A.", "park")),
        ("See the FAQ: a. So the answer is b.", ("See the FAQ: a.", "b")),
        ("The answer isn't clear. The answer is 7.5.", ("The answer isn't clear.", "7.5")),
        ("A. So the answer is\n(c) pond.", ("A.", "(c) pond")),
    ],
)
def test_other_ways_to_write(text: str, expected: tuple[str, str]) -> None:
    assert PLAIN.read(text) == Explained(*expected)


@pytest.mark.parametrize(
    ("answer_format", "text", "reason"),
    [
        (PLAIN, "Dogs run in parks.", "does not say 'So the answer is' or 'The answer is'"),
        (PLAIN, "So the answer is park.", "no rationale before 'So the answer is'"),
        (PLAIN, "Dogs run. So the answer is .", "no label"),
        (PLAIN, "Dogs run.\nQ: Next? So the answer is sea.", "does not say"),
        (CHOICES, "Dogs run. So the answer is park.", "'park' behind 'So the answer is' does not"),
        (EQUATION, "All. The answer is 7.", "does not match"),
        (AnswerFormat(label_pattern="a(b)?"), "A. The answer is a", "no label"),
    ],
)
def test_why_an_answer_cannot_be_read(answer_format: AnswerFormat, text: str, reason: str) -> None:
    with pytest.raises(UnparsableError, match=re.escape(reason)):
        answer_format.read(text)


def test_a_label_at_the_end_of_an_answer_that_was_cut_off_is_none() -> None:
    cut = "Dogs run. So the answer is (b) ba"
    assert CHOICES.read(cut).label == "ba"
    with pytest.raises(UnparsableError, match="cut off"):
        CHOICES.read(cut, cut_off=True)
    with pytest.raises(UnparsableError, match="before its end"):
        CHOICES.read("Dogs run", cut_off=True)
    for behind in ("\nMore", " Q: What"):
        assert CHOICES.read(f"{cut}{behind}", cut_off=True).label == "ba"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"markers": []}, "at least one"),
        ({"markers": [" "]}, "must hold words"),
        ({"stop": [""]}, "must hold words"),
        ({"label_pattern": "("}, "no regular expression"),
    ],
)
def test_formats_that_cannot_be(settings: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        AnswerFormat(**settings)


def test_nothing_is_cut_without_stop_words() -> None:
    text = "A. Q: b. The answer is c."
    assert AnswerFormat(stop=[]).read(text) == ("A. Q: b.", "c")
