"""Logging never waits for its output, and says what it had to leave out."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from gistserve.server.logs import LogFormat, LogLevel, enter_request, logs, setup

logger = logging.getLogger("gistserve.test")


@pytest.fixture(autouse=True)
def uvicorn_as_it_is_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that other tests ran in this process have configured its loggers."""
    for name in ("uvicorn", "uvicorn.error"):
        for attribute, value in (("handlers", []), ("propagate", True), ("level", logging.NOTSET)):
            monkeypatch.setattr(logging.getLogger(name), attribute, value)
    logging.getLogger("uvicorn.error").manager._clear_cache()  # type: ignore[attr-defined]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def read(reader: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in os.read(reader, 1 << 20).decode().splitlines()]


def test_lines_carry_values_and_the_request_they_belong_to(pipe):
    reader, writer = pipe

    def work():
        enter_request("req_1")
        logger.info("done %d", 3, extra={"fields": {"tokens": 5}})

    with logs(LogLevel.info, LogFormat.json, writer):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        logger.warning("outside")
    first, second = read(reader)
    assert (first["message"], first["tokens"], first["request_id"]) == ("done 3", 5, "req_1")
    assert second["message"] == "outside" and "request_id" not in second


def test_a_traceback_is_written(pipe):
    reader, writer = pipe
    with logs(LogLevel.info, LogFormat.json, writer):
        try:
            raise ValueError("no such thing")
        except ValueError:
            logger.exception("failed")
    (line,) = read(reader)
    assert line["message"] == "failed" and "no such thing" in line["exception"]


@pytest.mark.parametrize(
    ("level", "ours", "others"),
    [
        ("debug", "debug", "warning"),
        ("info", "info", "warning"),
        ("warning", "warning", "warning"),
        ("error", "error", "error"),
    ],
)
def test_what_is_logged_at_each_level(pipe, level, ours, others):
    reader, writer = pipe
    names = ["debug", "info", "warning", "error"]
    with logs(LogLevel(level), LogFormat.json, writer):
        for name in names:
            getattr(logger, name)("ours")
            getattr(logging.getLogger("uvicorn.error"), name)("ours")
            getattr(logging.getLogger("other"), name)("theirs")
    said = read(reader)
    assert [line["level"] for line in said if line["logger"] == "gistserve.test"] == names[
        names.index(ours) :
    ]
    assert len([line for line in said if line["message"] == "ours"]) == 2 * (4 - names.index(ours))
    assert [line["level"] for line in said if line["logger"] == "other"] == names[
        names.index(others) :
    ]


def test_python_s_warnings_are_logged(pipe):
    reader, writer = pipe
    with logs(LogLevel.info, LogFormat.json, writer):
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    (line,) = read(reader)
    assert line["level"] == "warning" and "old" in line["message"]


def test_nothing_is_left_behind():
    root = logging.getLogger()
    before = root.level, list(root.handlers), logging.getLogger("gistserve").level
    with logs(LogLevel.debug, LogFormat.text, 2):
        assert len(root.handlers) == len(before[1]) + 1
    assert (root.level, list(root.handlers), logging.getLogger("gistserve").level) == before


def test_a_full_output_makes_nobody_wait_and_drops_are_told(pipe, monkeypatch):
    reader, writer = pipe
    monkeypatch.setattr(setup, "CAPACITY", 50)
    text = "x" * 1000  # a pipe takes 64 KiB
    with logs(LogLevel.info, LogFormat.json, writer):
        begin = time.monotonic()
        for number in range(1000):
            logger.info(text, extra={"fields": {"number": number}})
        assert time.monotonic() - begin < 20
        said: list[dict[str, Any]] = []
        while sum(1 if "number" in line else line["dropped"] for line in said) < 1000:
            said += read_whole_lines(reader)
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):  # each was told once
        os.read(reader, 1)
    kept = [line["number"] for line in said if "number" in line]
    assert kept == sorted(kept) and kept[:50] == list(range(50)) and len(kept) < 1000
    told = [line for line in said if "dropped" in line]
    assert {line["level"] for line in told} == {"warning"}
    assert told[-1]["dropped_total"] == 1000 - len(kept)


def read_whole_lines(reader: int) -> list[dict[str, Any]]:
    data = os.read(reader, 1 << 20)
    while not data.endswith(b"\n"):
        data += os.read(reader, 1 << 20)
    return [json.loads(line) for line in data.decode().splitlines()]


def test_an_output_that_is_never_read_does_not_hold_the_end_up():
    program = (
        "import logging, time\n"
        "from gistserve.server.logs import LogFormat, LogLevel, logs\n"
        "with logs(LogLevel.info, LogFormat.text):\n"
        "    for _ in range(20000):\n"
        "        logging.getLogger('gistserve').info('x' * 100)\n"
        "print('ended', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ended\n"
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def test_an_output_that_was_closed_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    with logs(LogLevel.info, LogFormat.text, writer):
        logger.info("to nobody")
    os.close(writer)
