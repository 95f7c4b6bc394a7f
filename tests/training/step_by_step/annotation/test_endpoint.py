"""Annotation through an interface that drops lines, refuses, stalls and talks nonsense."""

import json
import random
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from gistserve.training.step_by_step.annotation import AnnotationError, annotate
from gistserve.training.step_by_step.annotation import retries as retry_rule
from gistserve.training.step_by_step.annotation.retries import retry_after
from gistserve.training.step_by_step.data import Fields, read_annotated

from .conftest import Configure, rows
from .fake_endpoint import FakeEndpoint, Misbehaviour

GOOD = b'{"choices": [{"message": {"content": "A. So the answer is b."}}]}'
NAMES = [f"n{number}" for number in range(12)]


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"body": json.dumps({"error": {"message": message}}).encode(), **more}


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_records_are_annotated_in_their_order(
    configure: Configure, teacher: FakeEndpoint, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "secret")
    teacher.seconds = 0.2
    config = configure(
        NAMES, api=api, concurrency=3, api_key_variable="KEY", max_tokens=7, body={"top_k": 5}
    )
    outcome = annotate(config)
    assert (outcome.num_annotated, outcome.num_unparsable, outcome.unparsable) == (12, 0, None)
    expected = [
        {"input": n, "label": f"gold {n}", "llm_label": n.upper(), "rationale": f"About {n}."}
        for n in NAMES
    ]
    del expected[-1]["label"]
    assert rows(outcome.output) == expected
    read = read_annotated(str(outcome.output), Fields())
    assert [(r.source, r.teacher_label, r.rationale) for r in read] == [
        (n, n.upper(), f"About {n}.") for n in NAMES
    ]
    assert sorted(teacher.asked()) == sorted(NAMES)
    assert teacher.most == 3
    _, body, headers = teacher.requests[0]
    shown = {"messages": 3} if api == "chat" else {"prompt": len("Q: i\nA: r So the answer is l.")}
    for name, least in shown.items():
        assert len(body.pop(name)) >= least
    assert body == {
        "model": "big",
        "max_tokens": 7,
        "temperature": 0.0,
        "stop": ["\nQ:"],
        "top_k": 5,
    }
    assert headers["Authorization"] == "Bearer secret"
    assert "secret" not in outcome.output.with_suffix(".answers.jsonl").read_text()


def test_what_may_pass_is_tried_again(
    configure: Configure, teacher: FakeEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher.troubles = {
        "n0": [Misbehaviour(), Misbehaviour(500), Misbehaviour(503, b"busy")],
        "n1": [Misbehaviour(429), Misbehaviour(200, b"{garbage"), Misbehaviour(200, b"[1]")],
        "n2": [
            Misbehaviour(200, b'{"choices": []}'),
            Misbehaviour(200, b'{"choices": [{"message": {"content": 5}}]}'),
            Misbehaviour(200, b'{"choices": [{"text": "completions"}]}'),
        ],
        "n3": [Misbehaviour(200, GOOD, seconds=4), Misbehaviour(408)],
    }
    assert annotate(configure(NAMES, timeout=2)).num_annotated == 12
    counts = [teacher.asked().count(name) for name in NAMES]
    assert counts == [4, 4, 4, 3] + [1] * 8
    assert "retries=11" in capsys.readouterr().err


def test_retry_after_is_honoured(configure: Configure, teacher: FakeEndpoint) -> None:
    teacher.troubles = {"n0": [Misbehaviour(429, headers={"Retry-After": "1"})]}
    started = time.monotonic()
    annotate(configure(["n0"]))
    assert time.monotonic() - started >= 1
    assert teacher.asked() == ["n0", "n0"]


def test_how_long_one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert retry_after(None) is None and retry_after("soon") is None
    assert retry_after("7") == 7
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert retry_after(moment) == pytest.approx(90, abs=5)
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    waits = [retry_rule._wait(tries, None) for tries in (0, 1, 2, 5, 6, 5000)]
    assert waits == [1, 2, 4, 32, 60, 60]
    assert retry_rule._wait(9, 0.0) == 0 and retry_rule._wait(0, 1e9) == 600


def test_an_unreachable_endpoint_is_told(configure: Configure) -> None:
    config = configure(NAMES, url="http://127.0.0.1:9/v1", retries=2, concurrency=1)
    with pytest.raises(AnnotationError) as told:
        annotate(config)
    message = str(told.value)
    assert "http://127.0.0.1:9/v1/chat/completions gave no answer in 3 tries" in message
    assert "ConnectError" in message and "0 of 12 records are answered" in message
    assert rows(Path(config.output)) == []


def test_progress_is_kept_when_the_endpoint_goes_away(
    configure: Configure, teacher: FakeEndpoint
) -> None:
    teacher.troubles = {"n5": [Misbehaviour(**error("overloaded"), status=500)] * 4}
    config = configure(NAMES, concurrency=1)
    with pytest.raises(AnnotationError, match=r"answered 500: overloaded\. 5 of 12 records"):
        annotate(config)
    assert [row["input"] for row in rows(Path(config.output))] == NAMES[:5]
    teacher.requests.clear()
    assert annotate(config).num_annotated == 12
    assert teacher.asked() == NAMES[5:]
    teacher.requests.clear()
    assert annotate(config).num_annotated == 12
    assert teacher.asked() == []


@pytest.mark.parametrize(
    ("status", "hint"), [(401, r"\$OPENAI_API_KEY"), (404, "url end"), (301, "points to /v2")]
)
def test_errors_that_stay_end_it_at_once(
    configure: Configure, teacher: FakeEndpoint, status: int, hint: str
) -> None:
    trouble = Misbehaviour(status, b"not here", {"Location": "/v2"})
    teacher.troubles = {name: [trouble] for name in NAMES}
    with pytest.raises(AnnotationError, match=f"{status}: not here.*{hint}"):
        annotate(configure(NAMES, concurrency=1))
    assert teacher.asked() == ["n0"]


def test_single_questions_may_be_refused(configure: Configure, teacher: FakeEndpoint) -> None:
    refusal = Misbehaviour(**error("too long"), status=400)
    teacher.troubles = {name: [refusal] for name in ("n0", "n1", "n7")}
    config = configure(NAMES)
    outcome = annotate(config)
    assert outcome.num_annotated == 9 and outcome.unparsable is not None
    apart = rows(outcome.unparsable)
    assert [row["index"] for row in apart] == [0, 1, 7]
    assert {row["reason"] for row in apart} == {"refused: too long"}
    teacher.requests.clear()
    annotate(config)
    assert teacher.asked() == []


def test_an_endpoint_that_refuses_everything_is_not_asked_everything(
    configure: Configure, teacher: FakeEndpoint
) -> None:
    refusal = Misbehaviour(**error("no such parameter: stop"), status=400)
    teacher.troubles = {name: [refusal] for name in NAMES}
    config = configure(NAMES, concurrency=1)
    with pytest.raises(AnnotationError, match="every question was refused: no such parameter: st"):
        annotate(config)
    assert teacher.asked() == NAMES[:5]
    teacher.troubles = {"n0": [refusal], "n11": [refusal]}
    assert annotate(config).num_annotated == 10


def test_refusals_of_all_that_is_left_end_no_run(
    configure: Configure, teacher: FakeEndpoint
) -> None:
    annotate(configure(NAMES, limit=11))
    teacher.troubles = {"n11": [Misbehaviour(**error("too long"), status=400)]}
    assert annotate(configure(NAMES)).num_unparsable == 1


def test_unparsable_answers_are_kept_apart(configure: Configure, teacher: FakeEndpoint) -> None:
    said = {
        "n0": "I do not know.",
        "n1": "A. So the answer is b.\n\nQ: new\nA: C. So the answer is d.",
        "n2": None,
        "n3": "half \ud83d 東京. So the answer is e.",
    }
    teacher.answer = lambda question: said[question]
    config = configure(list(said))
    outcome = annotate(config)
    assert [(row["llm_label"], row["rationale"]) for row in rows(outcome.output)] == [
        ("b", "A."),
        ("e", "half \ud83d 東京."),
    ]
    assert outcome.unparsable == outcome.output.with_suffix(".unparsable.jsonl")
    missing = "it does not say 'So the answer is' or 'The answer is'"
    assert rows(outcome.unparsable) == [
        {
            "index": 0,
            "input": "n0",
            "label": "gold n0",
            "text": "I do not know.",
            "reason": missing,
        },
        {"index": 2, "input": "n2", "label": "gold n2", "text": "", "reason": missing},
    ]
    # Another way of reading asks nothing again.
    shown = Path(config.demonstrations).with_suffix(".yaml")
    shown.write_text(
        "demonstrations: [{input: i, rationale: r, label: l}]\nmarkers: [So the answer is, I do]\n"
    )
    teacher.requests.clear()
    config.demonstrations = str(shown)
    assert annotate(config).num_annotated == 2
    assert [row["index"] for row in rows(outcome.unparsable)] == [0, 2]
    assert teacher.asked() == []


def test_an_answer_that_ends_for_its_length_is_not_believed(
    configure: Configure, teacher: FakeEndpoint
) -> None:
    teacher.finish_reason = "length"
    outcome = annotate(configure(["n0"]))
    assert outcome.unparsable is not None
    assert "cut off" in rows(outcome.unparsable)[0]["reason"]
