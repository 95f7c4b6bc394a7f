"""Finds registered prompts: by id, by name, by what they are, and by leading messages."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...compress.record import PromptRecord
from .prompt_entry import PromptEntry

Message = Mapping[str, Any]
_Content = tuple[int, bytes]


def content_hashes(messages: Sequence[Message]) -> list[bytes]:
    """A running hash: entry i stands for the first i + 1 messages."""
    hashes, digest = [], hashlib.sha256()
    for message in messages:
        written = json.dumps(message, sort_keys=True, separators=(",", ":"))
        digest.update(f"{len(written)}:{written}".encode())
        hashes.append(digest.copy().digest())
    return hashes


class PromptIndex:
    """The registered prompts of all owners. Look-ups need no scan of all prompts."""

    def __init__(self) -> None:
        self._by_id: dict[str, PromptEntry] = {}
        self._by_name: dict[tuple[str, str, str], PromptEntry] = {}
        self._by_identity: dict[str, PromptEntry] = {}
        self._by_messages: dict[tuple[str, str, _Content], list[PromptEntry]] = {}
        self._lengths: dict[tuple[str, str], Counter[int]] = {}

    def add(self, entry: PromptEntry) -> None:
        record = entry.record
        self._by_id[record.id] = entry
        self._by_identity[entry.identity] = entry
        if record.name:
            self._by_name[record.owner, record.model, record.name] = entry
        if _can_match(record):
            content = _content(record.messages or [])
            self._by_messages.setdefault((record.owner, record.model, content), []).append(entry)
            lengths = self._lengths.setdefault((record.owner, record.model), Counter())
            lengths[content[0]] += 1

    def remove(self, entry: PromptEntry) -> None:
        record = entry.record
        del self._by_id[record.id]
        # An expired prompt may have a successor under its identity and name.
        if self._by_identity.get(entry.identity) is entry:
            del self._by_identity[entry.identity]
        name = (record.owner, record.model, record.name or "")
        if self._by_name.get(name) is entry:
            del self._by_name[name]
        if _can_match(record):
            self._forget_messages(entry, _content(record.messages or []))

    def _forget_messages(self, entry: PromptEntry, content: _Content) -> None:
        owner, model = entry.record.owner, entry.record.model
        alike = self._by_messages[owner, model, content]
        alike.remove(entry)
        if not alike:
            del self._by_messages[owner, model, content]
        lengths = self._lengths[owner, model]
        lengths[content[0]] -= 1
        if not lengths[content[0]]:
            del lengths[content[0]]

    def all(self) -> list[PromptEntry]:
        return list(self._by_id.values())

    def by_id(self, prompt_id: str) -> PromptEntry | None:
        return self._by_id.get(prompt_id)

    def by_name(self, owner: str, model: str, name: str) -> PromptEntry | None:
        return self._by_name.get((owner, model, name))

    def by_identity(self, identity: str) -> PromptEntry | None:
        return self._by_identity.get(identity)

    def leading(self, owner: str, model: str, messages: Sequence[Message]) -> list[PromptEntry]:
        """Prompts whose messages are the first ones of `messages`, longest first."""
        lengths = [n for n in self._lengths.get((owner, model), ()) if n <= len(messages)]
        if not lengths:
            return []
        hashes = content_hashes(messages[: max(lengths)])
        return [
            entry
            for n in sorted(lengths, reverse=True)
            for entry in self._by_messages.get((owner, model, (n, hashes[n - 1])), ())
        ]


def _can_match(record: PromptRecord) -> bool:
    """Whether a conversation may be found to begin with this prompt."""
    return record.messages is not None and not record.variables


def _content(messages: Sequence[Message]) -> _Content:
    return len(messages), content_hashes(messages)[-1]
