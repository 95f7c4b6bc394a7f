"""Turns the logs of this process on."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from .formats import JsonFormatter, TextFormatter
from .writer import LineWriter, QueuedLines

CAPACITY = 10_000
"""Lines that may wait for a slow output."""

_STDERR = 2
_OURS = ("gistserve", "uvicorn")


class LogLevel(StrEnum):
    """The least that is logged."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class LogFormat(StrEnum):
    """How lines are written."""

    text = "text"
    json = "json"


@contextmanager
def logs(level: LogLevel, style: LogFormat, descriptor: int = _STDERR) -> Iterator[None]:
    """Everything that is logged inside goes to a file descriptor, by default standard error.

    `level` holds for gistserve and uvicorn; other libraries log from warnings on, or from `level`
    if that is higher.
    """
    formatter = JsonFormatter() if style is LogFormat.json else TextFormatter()
    lines = QueuedLines(CAPACITY)
    writer = LineWriter(lines, formatter, descriptor)
    ours = level.value.upper()
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, _OURS)]
    levels = [logger.level for logger in loggers]
    root.addHandler(lines)
    root.setLevel(max(logging.WARNING, logging.getLevelName(ours)))
    for logger in loggers[1:]:
        logger.setLevel(ours)
    logging.captureWarnings(True)
    writer.start()
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(lines)
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)
        writer.stop()
