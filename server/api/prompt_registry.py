"""The life cycle of registered prompts, between the store on disk and the engines' caches."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

from ...compress.record import PromptRecord, new_prompt_id
from ...compress.store import GistStore
from .admission import Admission
from .cache_tiers import CacheTiers
from .errors import ApiError, bad_value, model_not_found, prompt_not_found
from .prompt_cache import PromptCaches
from .prompt_entry import PromptEntry
from .prompt_index import PromptIndex
from .prompt_memory import PromptMemory
from .prompt_plan import PromptPlan, life, plan_prompt
from .prompt_schemas import PromptBody, PromptPatch
from .rendering import Renderer
from .served_models import ServedModel

logger = logging.getLogger(__name__)

Clock = Callable[[], float]


class PromptRegistry:
    """All registered prompts of one server. Its methods run on the event loop.

    Each change is in the store before it is acknowledged. Expired prompts are gone for clients
    at once, and from store and engine at the next `sweep`. A prompt with a ttl lives that long
    after its last use; a fixed expiry stays where it is.

    Args:
        memory: how much the prompts' caches may take outside the store.
        clock: Unix seconds; tests set their own.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        store: GistStore,
        memory: PromptMemory | None = None,
        clock: Clock = time.time,
    ) -> None:
        self._caches = PromptCaches(models, store, memory or PromptMemory())
        self._clock = clock
        self._index = PromptIndex()
        self._creating: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._reserved: dict[tuple[str, str, str], str] = {}

    async def restore(self) -> None:
        """Takes over the store's prompts; their caches stay on the disk until they are used.

        A prompt whose cache is of other weights, or too large, is "failed".
        """
        for record in await self._caches.records():
            entry = self._entry(record)
            if entry.error is not None:
                logger.warning("prompt %s is not used: %s", record.id, entry.error)
            self._index.add(entry)
        await self.sweep()

    async def create(
        self,
        owner: str,
        model: ServedModel,
        renderer: Renderer,
        queue: Admission,
        body: PromptBody,
    ) -> tuple[PromptEntry, bool]:
        """Registers a prompt; the same one again gives the same entry and False.

        Cancelled before its cache is written it registers nothing, after that all of it.

        Args:
            queue: bounds what may wait to be compressed; what is registered needs no place.

        Raises:
            ApiError: 400 for what cannot be compressed, 409 for a name that is taken, 429 for a
                full queue, 507 where cache or store have no room.
        """
        plan = plan_prompt(owner, model, body)
        await self.sweep()  # what has expired must not be what the store has no room for
        if (known := self._ready(plan)) is None:
            queue.check()
            token_ids = await _token_ids(renderer, plan)
            with queue.stay(len(token_ids)):
                async with self._sole_creator(plan.identity):
                    if (known := self._ready(plan)) is None:
                        return await self._build(plan, model, token_ids), True
        await self._renew(known, plan)
        return known, False

    def get(self, owner: str, prompt_id: str) -> PromptEntry:
        """Raises ApiError (404) for unknown, expired and other owners' prompts."""
        entry = self._current(self._index.by_id(prompt_id))
        if entry is None or entry.record.owner != owner:
            raise prompt_not_found(prompt_id)
        return entry

    def named(self, owner: str, model: ServedModel, name: str) -> PromptEntry:
        """Raises ApiError (404) where this owner has no prompt of this name for the model."""
        entry = self._current(self._index.by_name(owner, model.name, name))
        if entry is None:
            raise model_not_found(f"{model.name}/{name}")
        return entry

    def all_of(self, owner: str) -> list[PromptEntry]:
        """This owner's prompts, oldest first."""
        now = self._clock()
        entries = [
            entry
            for entry in self._index.all()
            if entry.record.owner == owner and not entry.is_expired(now)
        ]
        return sorted(entries, key=lambda entry: (entry.record.created_at, entry.record.id))

    def usable_names(self, owner: str) -> list[PromptEntry]:
        """This owner's prompts that act as models, oldest first."""
        return [e for e in self.all_of(owner) if e.record.name and e.error is None]

    def gists_of(self, model_name: str) -> list[PromptRecord]:
        """The usable prompts of all owners that a model has as gists."""
        records = (entry.record for entry in self._index.all() if entry.error is None)
        return [r for r in records if r.model == model_name and r.method == "gist"]

    def match(
        self,
        owner: str,
        model: ServedModel,
        messages: Sequence[Mapping[str, Any]],
        token_ids: Sequence[int],
    ) -> tuple[PromptEntry, list[int]] | None:
        """The longest prompt that a conversation begins with, and the tokens behind it.

        Only exact caches count, and gists registered with `auto_match`.
        """
        found = []
        for entry in self._index.leading(owner, model.name, messages):
            exact = entry.record.method == "prefix"
            if self._current(entry) is None or entry.error is not None:
                continue
            if not (exact or entry.record.auto_match):
                continue
            rest = entry.rest_of(token_ids)
            if rest is not None:
                found.append((len(rest), not exact, entry, rest))
        if not found:
            return None
        _, _, entry, rest = min(found, key=lambda candidate: candidate[:2])
        return entry, rest

    @property
    def tiers(self) -> CacheTiers:
        """Where the caches lie."""
        return self._caches.tiers

    @property
    def disk_limit(self) -> int | None:
        """Bytes that the store may take."""
        return self._caches.disk_limit

    def as_resource(self, entry: PromptEntry) -> dict[str, Any]:
        """The JSON that clients see."""
        return entry.as_resource(self.tiers.bytes_by_tier(entry.cache))

    def note_use(self, entry: PromptEntry, prompts: int) -> None:
        """Counts a request that used the cache for so many prompts; it renews a ttl."""
        saved = prompts * entry.record.prompt_tokens
        self._caches.count_use(entry.record.id, saved, int(self._clock()))
        self._refresh(entry)

    async def update(self, entry: PromptEntry, patch: PromptPatch) -> None:
        """Changes expiry and metadata.

        Raises:
            ApiError: 400, 404 once deleted, 507 for more than the store has room for.
        """
        changes = self._changes(patch)
        if changes:
            await self._change(entry, changes)

    async def delete(self, entry: PromptEntry) -> None:
        """Forgets a prompt; requests that run with it finish. Raises ApiError (404) if gone."""
        async with entry.lock:
            if entry.deleted:
                raise prompt_not_found(entry.record.id)
            await self._caches.forget(entry.record)
            self._drop(entry)

    def _drop(self, entry: PromptEntry) -> None:
        self._index.remove(entry)
        entry.deleted = True
        self._caches.release(entry)

    async def sweep(self) -> None:
        """Removes expired prompts."""
        now = self._clock()
        for entry in self._index.all():
            if entry.is_expired(now):
                try:
                    await self._delete_if_there(entry)
                except ApiError as error:
                    logger.warning("prompt %s: %s", entry.record.id, error)

    async def _delete_if_there(self, entry: PromptEntry) -> None:
        try:
            await self.delete(entry)
        except ApiError as error:
            if error.status_code != 404:  # deleted meanwhile
                raise

    async def close(self) -> None:
        """Writes the usage counters. The pins go with the engines."""
        await self._caches.flush()

    def _entry(self, record: PromptRecord) -> PromptEntry:
        return PromptEntry(record, self.tiers.hold(record))

    def _current(self, entry: PromptEntry | None) -> PromptEntry | None:
        """The entry, unless it has expired."""
        return None if entry is None or entry.is_expired(self._clock()) else entry

    def _ready(self, plan: PromptPlan) -> PromptEntry | None:
        """The same prompt, registered before."""
        entry = self._current(self._index.by_identity(plan.identity))
        return None if entry is None or entry.error is not None else entry

    async def _build(
        self, plan: PromptPlan, model: ServedModel, token_ids: list[int]
    ) -> PromptEntry:
        """Makes cache and record; takes the place of the same prompt where that had failed."""
        body = plan.body
        name = (plan.owner, model.name, body.name) if body.name else None
        async with self._reserve(name, plan.identity):
            failed = self._current(self._index.by_identity(plan.identity))
            record, cache = await self._caches.make(self._record(plan, model, token_ids, failed))
            entry = self._entry(record)
            if failed is not None and not failed.deleted:
                self._drop(failed)
            self._index.add(entry)
            await self.tiers.settle(entry, cache)
            return entry

    def _record(
        self,
        plan: PromptPlan,
        model: ServedModel,
        token_ids: list[int],
        failed: PromptEntry | None,
    ) -> PromptRecord:
        body, now = plan.body, self._clock()
        return PromptRecord(
            id=failed.record.id if failed else new_prompt_id(),
            name=body.name or (failed.record.name if failed else None),
            owner=plan.owner,
            model=model.name,
            method=plan.method,
            messages=plan.messages,
            text=body.text,
            tools=plan.tools,
            gist_tokens=plan.gist_tokens,
            created_at=failed.record.created_at if failed else int(now),
            **life(body.ttl, now),
            metadata=body.metadata,
            auto_match=body.auto_match,
            variables=body.variables,
            prompt_token_ids=token_ids,
        )

    async def _renew(self, entry: PromptEntry, plan: PromptPlan) -> None:
        """A registration again: it may name an unnamed prompt and lengthen its life."""
        changes: dict[str, Any] = {}
        record, body = entry.record, plan.body
        if body.name and not record.name:
            self._check_name((plan.owner, record.model, body.name), plan.identity)
            changes["name"] = body.name
        if record.expires_at is not None:
            new = life(body.ttl, self._clock())
            if new["expires_at"] is None or new["expires_at"] > record.expires_at:
                changes |= new
        if body.auto_match and not record.auto_match:
            changes["auto_match"] = True
        if changes:
            await self._change(entry, changes)

    async def _change(self, entry: PromptEntry, changes: dict[str, Any]) -> None:
        """Changes fields in the store and then in memory."""
        async with entry.lock:
            if entry.deleted:
                raise prompt_not_found(entry.record.id)
            await self._caches.edit(entry.record.id, changes)
            self._index.remove(entry)
            self._refresh(entry)
            self._index.add(entry)

    def _refresh(self, entry: PromptEntry) -> None:
        entry.record = self._caches.record(entry.record.id) or entry.record

    def _changes(self, patch: PromptPatch) -> dict[str, Any]:
        given = patch.model_fields_set
        changes: dict[str, Any] = {}
        now = self._clock()
        if patch.expires_at is not None:
            if patch.ttl is not None:
                raise bad_value("ttl", "Give ttl or expires_at, not both.")
            if patch.expires_at <= now:
                raise bad_value("expires_at", "expires_at must lie in the future.")
            changes |= {"expires_at": patch.expires_at, "ttl": None}
        elif given & {"ttl", "expires_at"}:
            changes |= life(patch.ttl, now)
        if patch.metadata is not None:
            changes["metadata"] = patch.metadata
        return changes

    @asynccontextmanager
    async def _sole_creator(self, identity: str) -> AsyncIterator[None]:
        """Lets one task at a time create the same prompt; the others then find it."""
        lock = self._creating.setdefault(identity, asyncio.Lock())
        async with lock:
            yield

    @asynccontextmanager
    async def _reserve(
        self, key: tuple[str, str, str] | None, identity: str
    ) -> AsyncIterator[None]:
        """Keeps a name from others while its prompt is being made."""
        if key is None:
            yield
            return
        holder = self._index.by_name(*key)
        if holder is not None and holder.is_expired(self._clock()):
            await self._delete_if_there(holder)
        self._check_name(key, identity)
        self._reserved[key] = identity
        try:
            yield
        finally:
            del self._reserved[key]

    def _check_name(self, key: tuple[str, str, str], identity: str) -> None:
        holder = self._index.by_name(*key)
        taken_by = holder.identity if holder is not None else self._reserved.get(key, identity)
        if taken_by != identity:
            raise ApiError(
                409,
                f"The name `{key[2]}` is taken by another prompt of model `{key[1]}`; delete that "
                "one first or choose another name.",
                param="name",
                code="name_taken",
            )


async def _token_ids(renderer: Renderer, plan: PromptPlan) -> list[int]:
    """The tokens to compress. Raises ApiError (400) where there are none."""
    body = plan.body
    if plan.messages is not None:
        token_ids = await renderer.registered_chat(plan.messages, body.variables, plan.tools)
    else:
        token_ids = await renderer.registered_text(body.text or "", body.variables)
    if not token_ids:
        raise bad_value("text", "text must hold at least one token.")
    return token_ids
