"""Structured logs, written by a thread of their own."""

from .rate_limit import RepeatedWarning
from .request_context import current_request, enter_request
from .setup import LogFormat, LogLevel, logs

__all__ = ["LogFormat", "LogLevel", "RepeatedWarning", "current_request", "enter_request", "logs"]
