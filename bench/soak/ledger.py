"""Which prompts the server must still have, and which it must not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# Expiries are whole seconds, and the clocks of two processes are read at different moments.
_SLACK = 2.0
# After a kill the server gives prompts with a ttl as much longer, for uses it may not have written.
_GRACE = 30.0


@dataclass
class LedgerEntry:
    """What the server acknowledged of one prompt."""

    prompt: int
    prompt_id: str
    ttl: float | None
    """Seconds that each use lengthens its life to; None for good."""
    expires_at: float | None
    last_touch: float
    """When the server may last have counted a use."""
    lengthened_to: float = 0.0
    """The latest end of its life, after the last kill."""
    deleting: bool = False
    """A deletion was sent; whether it was done is only known if it was acknowledged."""
    deleted: bool = False


def _latest_end(entry: LedgerEntry) -> float:
    if entry.expires_at is None or entry.ttl is None:
        return math.inf
    return max(entry.expires_at, entry.last_touch + entry.ttl)


def id_of(entry: LedgerEntry | None) -> str | None:
    """What a request names the prompt by, if it has one."""
    return None if entry is None else entry.prompt_id


class PromptLedger:
    """The acknowledged prompts by their place in the catalogue.

    A registration whose answer was lost is in doubt: the prompt may exist or not.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: dict[int, LedgerEntry] = {}
        self._doubtful: set[int] = set()

    def acknowledged(self, prompt: int, resource: dict[str, object], ttl: float | None) -> None:
        """The server answered a registration."""
        expires_at = resource["expires_at"]
        self._entries[prompt] = LedgerEntry(
            prompt,
            str(resource["id"]),
            ttl,
            None if expires_at is None else float(str(expires_at)),
            self._clock(),
        )
        self._doubtful.discard(prompt)

    def doubt(self, prompt: int) -> None:
        """A registration was sent, and nobody knows what became of it."""
        self._doubtful.add(prompt)

    def find(self, prompt: int) -> LedgerEntry | None:
        return self._entries.get(prompt)

    def touch(self, entry: LedgerEntry) -> None:
        """A request used the prompt, as far as the client knows."""
        entry.last_touch = self._clock()

    def killed(self) -> None:
        """The server was killed, and with it the memory of the last uses."""
        for entry in self._entries.values():
            entry.lengthened_to = _latest_end(entry) + _GRACE

    def must_exist(self, entry: LedgerEntry) -> bool:
        """Whether the server would be wrong to say that it has no such prompt."""
        if entry.deleting or entry.deleted or self._entries.get(entry.prompt) is not entry:
            return False
        return entry.expires_at is None or self._clock() < entry.expires_at - _SLACK

    def must_be_gone(self, entry: LedgerEntry) -> bool:
        """Whether the server would be wrong to have it."""
        if entry.prompt in self._doubtful or self._entries.get(entry.prompt) is not entry:
            return False
        if entry.deleted:
            return True
        return self._clock() > max(_latest_end(entry), entry.lengthened_to) + _SLACK

    def entries(self) -> Iterator[LedgerEntry]:
        yield from list(self._entries.values())

    def may_hold(self, prompt_id: str) -> bool:
        """Whether the server may list an id: of a known prompt, or of one in doubt."""
        known = {entry.prompt_id: entry for entry in self._entries.values()}
        if prompt_id in known:
            return not self.must_be_gone(known[prompt_id])
        return bool(self._doubtful)
