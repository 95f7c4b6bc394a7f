"""How a log line is written: key=value for people, JSON for machines.

A record's own values come as ``extra={"fields": {...}}``; what is None is left out.
"""

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

_PLAIN = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class TextFormatter(logging.Formatter):
    """`TIME LEVEL message key=value …`, one line a record; a traceback follows on its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        time = _time(record).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        message = _UNSPEAKABLE.sub(_escaped, record.getMessage())
        pairs = [f"{key}={_written(value)}" for key, value in fields_of(record).items()]
        line = " ".join((time, f"{record.levelname:<7}", message, *pairs))
        return f"{line}\n{record.exc_text}" if record.exc_text else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, the record's own values."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _time(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_text:
            entry["exception"] = record.exc_text
        return json.dumps(entry, default=str)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What the record says besides its message, the request's id first."""
    fields = {"request_id": getattr(record, "request_id", None), **getattr(record, "fields", {})}
    return {key: value for key, value in fields.items() if value is not None}


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _written(value: Any) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _escaped(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]
