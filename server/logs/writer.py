"""Takes log lines from any thread without waiting, and writes them from its own."""

import copy
import logging
import os
import queue
import threading
from contextlib import suppress

from .request_context import current_request


class QueuedLines(logging.Handler):
    """Queues records for a `LineWriter`; one that finds the queue full is dropped and counted."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.queue: queue.Queue[logging.LogRecord | None] = queue.Queue(capacity)
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        # The handler's lock is held: `dropped` is counted by one thread at a time.
        try:
            self.queue.put_nowait(_detached(record))
        except queue.Full:
            self.dropped += 1
        except Exception:
            self.handleError(record)


class LineWriter:
    """Writes queued records to a file descriptor, and tells how many had to be dropped.

    Nobody else waits for a descriptor that takes nothing: neither those who log, nor `stop`,
    nor the end of the process.
    """

    def __init__(self, lines: QueuedLines, formatter: logging.Formatter, descriptor: int) -> None:
        self._lines = lines
        self._formatter = formatter
        self._descriptor = descriptor
        self._told = 0
        self._thread = threading.Thread(target=self._run, name="gistserve-logs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """Writes what is queued, as far as it goes in `timeout` seconds."""
        with suppress(queue.Full):
            self._lines.queue.put(None, timeout=timeout / 2)
            self._thread.join(timeout / 2)

    def _run(self) -> None:
        while (record := self._lines.queue.get()) is not None:
            self._write(record)
            if self._lines.queue.empty():
                self._tell_dropped()
        self._tell_dropped()

    def _tell_dropped(self) -> None:
        dropped = self._lines.dropped
        if dropped > self._told:
            self._write(_dropped_record(dropped - self._told, dropped))
            self._told = dropped

    def _write(self, record: logging.LogRecord) -> None:
        # Not through sys.stderr: a write that hangs would hold its lock when the process ends.
        rest = (self._formatter.format(record) + "\n").encode("utf-8", "backslashreplace")
        with suppress(OSError):  # nobody reads any more
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]


def _detached(record: logging.LogRecord) -> logging.LogRecord:
    """A copy that keeps nothing of what its caller may change or free, and knows its request."""
    detached = copy.copy(record)
    detached.msg, detached.args = record.getMessage(), None
    if record.exc_info and not record.exc_text:
        detached.exc_text = logging.Formatter().formatException(record.exc_info)
    detached.exc_info = None
    if not hasattr(record, "request_id"):
        detached.request_id = current_request()
    return detached


def _dropped_record(newly: int, total: int) -> logging.LogRecord:
    message = f"{newly} log lines were dropped: the output does not take them fast enough"
    record = logging.LogRecord(__name__, logging.WARNING, "", 0, message, None, None)
    record.fields = {"dropped": newly, "dropped_total": total}
    return record
