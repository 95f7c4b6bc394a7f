"""Demonstrations: those that come along, files, and what is wrong with some."""

from pathlib import Path

import pytest
from gistserve.training.config import ConfigError
from gistserve.training.step_by_step.annotation.demonstrations import (
    Demonstration,
    FewShot,
    load_few_shot,
)
from gistserve.training.step_by_step.equation import value
from gistserve.training.step_by_step.scores import choices

DOGS = Demonstration(input="Where do dogs run?", rationale="They like grass.", label="park")


def test_prompts_of_both_kinds() -> None:
    few_shot = FewShot(demonstrations=[DOGS], instruction="Explain.")
    written = "They like grass. So the answer is park."
    assert few_shot.text("{a}?") == f"Explain.\n\nQ: {DOGS.input}\nA: {written}\n\nQ: {{a}}?\nA:"
    assert few_shot.messages("{a}?") == [
        {"role": "system", "content": "Explain."},
        {"role": "user", "content": DOGS.input},
        {"role": "assistant", "content": written},
        {"role": "user", "content": "{a}?"},
    ]
    assert FewShot(demonstrations=[DOGS]).messages("b")[0]["role"] == "user"


@pytest.mark.parametrize("name", ["cqa", "svamp", "nli"])
def test_demonstrations_that_come_along(name: str) -> None:
    few_shot = load_few_shot(name)
    assert len(few_shot.demonstrations) >= 6
    for shown in few_shot.demonstrations:
        label = few_shot.format.read(few_shot._written(shown)).label
        if name == "cqa":
            assert label in choices(shown.input) and len(choices(shown.input)) == 5
            assert shown.label in shown.input  # behind the right letter
        elif name == "svamp":
            assert label == shown.label and value(label) is not None
        else:
            assert label in ("entailment", "neutral", "contradiction")
    # A plain model goes on with the next example: the cut must find its beginning.
    invented = few_shot.text("Premise: a" if name == "nli" else "a").removeprefix("Q: ")
    first = few_shot.demonstrations[0]
    reading = few_shot.format.read(few_shot._written(first) + "\n\n" + f"Q: {invented}")
    assert reading.rationale == first.rationale


def test_jsonl_and_yaml_files(tmp_path: Path) -> None:
    lines = tmp_path / "shown.jsonl"
    lines.write_text('{"input": "a", "rationale": "b", "label": "c"}\n')
    assert load_few_shot(str(lines)).text("d").startswith("Q: a\nA: b So the answer is c.\n\nQ: d")
    settings = tmp_path / "shown.yaml"
    settings.write_text(
        "question: 'Problem: {input}'\nanswer: '{rationale} Answer: {label}'\n"
        "markers: ['Answer:']\nstop: ['Problem:']\n"
        "demonstrations: [{input: a, rationale: b, label: c}]\n"
    )
    few_shot = load_few_shot(str(settings))
    assert few_shot.text("d") == "Problem: a b Answer: c\n\nProblem: d"
    assert few_shot.format.read("x Answer:5\nProblem: y") == ("x", "5")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"demonstrations": []}, "at least one example"),
        ({"question": "Q:"}, r"question must hold \{input\}"),
        ({"answer": "{rationale}"}, r"\{rationale\} and \{label\}"),
        ({"question": "{input} {"}, "is no template"),
        ({"label_pattern": r"\((.)\)"}, "demonstration 1 could not be read back .*'park'"),
        ({"answer": "{label}: {rationale} So the answer is so."}, "'park: They like grass.'"),
        ({"markers": ["grass"]}, "only 'They like'"),
    ],
)
def test_demonstrations_that_cannot_be_used(settings: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        FewShot(**({"demonstrations": [DOGS]} | settings))


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cqa, nli, svamp"):
        load_few_shot("cqa2")
    path = tmp_path / "shown.jsonl"
    path.write_text('{"input": "a", "rationale": "b"}\n')
    with pytest.raises(ConfigError, match=r"shown\.jsonl: .*label"):
        load_few_shot(str(path))
