"""Carries outputs from the engine's thread to event loops."""

from __future__ import annotations

import asyncio
import threading
import weakref

from .request import RequestOutput


class OutputInbox:
    """Outputs that wait for their one reader, on the reader's event loop."""

    def __init__(self) -> None:
        self._outputs: list[RequestOutput] = []
        self._reader: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._outputs)

    def put(self, output: RequestOutput) -> None:
        """Adds an output and wakes the reader."""
        self._outputs.append(output)
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    async def take(self) -> list[RequestOutput]:
        """All outputs that wait, the oldest first; waits while there is none."""
        while not self._outputs:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        outputs, self._outputs = self._outputs, []
        return outputs


class LoopMailbox:
    """Collects a step's outputs for one event loop and wakes it once for all of them.

    ``post`` and ``flush`` run on the engine's thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._posted: list[tuple[OutputInbox, RequestOutput]] = []

    def post(self, inbox: OutputInbox, output: RequestOutput) -> None:
        """Adds an output for an inbox of the loop."""
        self._posted.append((inbox, output))

    def flush(self) -> None:
        """Hands over what was posted. A loop that is closed loses it."""
        if not self._posted:
            return
        posted, self._posted = self._posted, []
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(_put_all, posted)
            except RuntimeError:  # closed between the check and the call
                return


class LoopMailboxes:
    """One mailbox an event loop, for as long as the loop lives."""

    def __init__(self) -> None:
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopMailbox]
        self._by_loop = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def of(self, loop: asyncio.AbstractEventLoop) -> LoopMailbox:
        """The loop's mailbox; from any thread."""
        with self._lock:
            mailbox = self._by_loop.get(loop)
            if mailbox is None:
                mailbox = self._by_loop[loop] = LoopMailbox(loop)
            return mailbox

    def flush(self) -> None:
        """Flushes all mailboxes."""
        with self._lock:
            mailboxes = list(self._by_loop.values())
        for mailbox in mailboxes:
            mailbox.flush()


def _put_all(posted: list[tuple[OutputInbox, RequestOutput]]) -> None:
    for inbox, output in posted:
        inbox.put(output)
