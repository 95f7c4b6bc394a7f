"""Any record becomes lines that can be told apart and read back."""

import json
import logging
import shlex

import pytest
from gistserve.server.logs.formats import JsonFormatter, TextFormatter
from hypothesis import example, given
from hypothesis import strategies as st

ANY_TEXT = st.text(st.characters())  # lone surrogates and control characters among them


def record(message: str, *args: object, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("gistserve.test", logging.INFO, "", 0, message, args, None)
    made.fields = fields
    return made


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_what_clients_send_never_begins_a_line(message, value, request_id):
    made = record("%s", message, value=value)
    made.request_id = request_id
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(made)
        assert line.splitlines() == [line]
        line.encode()
    assert json.loads(line)["value"] == value
    assert json.loads(line)["message"] == message


@given(ANY_TEXT)
@example("it's")  # which a shell's words would not end
def test_a_value_is_one_word_and_can_be_read_back(value):
    line = TextFormatter().format(record("done", value=value, after=1))
    before, _, written = line.removesuffix(" after=1").partition(" done value=")
    assert "INFO" in before
    assert (json.loads(written) if written.startswith('"') else written) == value
    assert written.startswith('"') or len(shlex.split(written)) == 1


def test_the_order_of_a_line():
    made = record("request", status=200, model=None, ttft_ms=1.5)
    made.request_id, made.created = "abc", 0.0
    line = TextFormatter().format(made)
    assert line.endswith(" INFO    request request_id=abc status=200 ttft_ms=1.5")
    assert json.loads(JsonFormatter().format(made)) == {
        "time": "1970-01-01T00:00:00.000+00:00",
        "level": "info",
        "logger": "gistserve.test",
        "message": "request",
        "request_id": "abc",
        "status": 200,
        "ttft_ms": 1.5,
    }


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_traceback_is_kept(formatter):
    made = record("failed")
    made.exc_text = "Traceback ...\nValueError: no"
    assert "ValueError: no" in formatter.format(made)
