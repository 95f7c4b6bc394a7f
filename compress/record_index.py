"""Prompt records in memory, found by id, by name, by their tokens, and by the cache they use."""

from collections import defaultdict
from collections.abc import Iterator

from .errors import PromptNameTakenError, PromptNotFoundError
from .record import PromptRecord


class RecordIndex:
    """Look-ups over a set of records in constant time. Not thread-safe: its owner locks."""

    def __init__(self) -> None:
        self._records: dict[str, PromptRecord] = {}
        self._ids_by_name: dict[tuple[str, str, str], str] = {}
        self._ids_by_prompt: dict[str, set[str]] = defaultdict(set)
        self._ids_by_cache: dict[str, set[str]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[PromptRecord]:
        return iter(self._records.values())

    def get(self, prompt_id: str) -> PromptRecord:
        """Raises PromptNotFoundError."""
        try:
            return self._records[prompt_id]
        except KeyError:
            raise PromptNotFoundError(f"there is no prompt {prompt_id!r}") from None

    def find(self, prompt_id: str) -> PromptRecord | None:
        return self._records.get(prompt_id)

    def by_name(self, owner: str, model: str, name: str) -> PromptRecord | None:
        prompt_id = self._ids_by_name.get((owner, model, name))
        return None if prompt_id is None else self._records[prompt_id]

    def by_prompt(self, prompt_hash: str) -> list[PromptRecord]:
        return [self._records[prompt_id] for prompt_id in self._ids_by_prompt.get(prompt_hash, ())]

    def uses_cache(self, cache_hash: str) -> bool:
        return cache_hash in self._ids_by_cache

    def check_name(self, record: PromptRecord) -> None:
        """Raise PromptNameTakenError if another prompt has this record's name."""
        if record.name is None:
            return
        other = self.by_name(record.owner, record.model, record.name)
        if other is not None and other.id != record.id:
            raise PromptNameTakenError(
                f"model {record.model!r} already has a prompt named {record.name!r} ({other.id}); "
                "delete it or choose another name"
            )

    def add(self, record: PromptRecord) -> None:
        """Add `record` or replace the one of the same id. Raises PromptNameTakenError."""
        self.check_name(record)
        self.discard(record.id)
        self._records[record.id] = record
        if record.name is not None:
            self._ids_by_name[record.owner, record.model, record.name] = record.id
        self._ids_by_prompt[record.prompt_hash].add(record.id)
        self._ids_by_cache[record.cache_hash].add(record.id)

    def discard(self, prompt_id: str) -> None:
        """Forget a record; nothing happens where there is none."""
        record = self._records.pop(prompt_id, None)
        if record is None:
            return
        if record.name is not None:
            del self._ids_by_name[record.owner, record.model, record.name]
        _remove(self._ids_by_prompt, record.prompt_hash, prompt_id)
        _remove(self._ids_by_cache, record.cache_hash, prompt_id)


def _remove(groups: dict[str, set[str]], key: str, prompt_id: str) -> None:
    groups[key].discard(prompt_id)
    if not groups[key]:
        del groups[key]
