"""A registered prompt in a running server: its record, and its cache."""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...compress.cache import Method
from ...compress.record import PromptRecord
from .errors import bad_value, prompt_not_found
from .generation import PreparedPrompt
from .held_cache import HeldCache, Tier
from .prompt_variables import fill_messages, values_for
from .tool_schemas import Tool, for_template


@dataclass(slots=True, eq=False)
class PromptEntry:
    """One registered prompt.

    cache: shared with prompts of other owners that are the same; deleted: nobody may start to use
    it; lock: held while the store's copy changes.
    """

    record: PromptRecord
    cache: HeldCache
    deleted: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        record = self.record
        content = record.text if record.messages is None else record.messages
        self.identity = identity_of(
            record.owner,
            record.model,
            record.method,
            record.gist_tokens,
            content,
            record.variables,
            record.tools,
        )

    @property
    def error(self) -> str | None:
        """Why its cache cannot be used; None where it can."""
        return self.cache.error

    def is_expired(self, now: float) -> bool:
        return self.record.expires_at is not None and self.record.expires_at <= now

    def check_usable(self) -> None:
        """Raises ApiError: 404 once deleted, 400 where its cache cannot be used."""
        if self.deleted:
            raise prompt_not_found(self.record.id)
        if self.error is not None:
            raise bad_value(
                "prompt_id",
                f"The prompt `{self.record.id}` cannot be used: {self.error} Register it again.",
                "prompt_failed",
            )

    def values(self, given: Mapping[str, Any] | None) -> dict[str, str]:
        """The values of the prompt's variables; ApiError (400) where they do not fit."""
        return values_for(self.record.variables, given, "prompt.variables")

    def chat_messages(self, values: Mapping[str, str]) -> list[dict[str, Any]]:
        """The registered messages; ApiError (400) for a prompt registered as text."""
        if self.record.messages is None:
            raise bad_value(
                "prompt_id",
                f"The prompt `{self.record.id}` was registered as text; use it with "
                "/v1/completions, or register it as messages.",
            )
        return fill_messages(self.record.messages, values)

    def offered_tools(self, given: Sequence[Tool] | None) -> Sequence[Tool] | None:
        """The tools of a request that gives these; ApiError (400) where the prompt has others."""
        registered = self.record.tools
        if registered is None:
            return given
        if given and for_template(given) != registered:
            raise bad_value(
                "tools",
                f"The prompt `{self.record.id}` was registered with other tools. Leave tools out "
                "to use its own, or register a prompt with these.",
            )
        return [Tool.model_validate(tool) for tool in registered]

    def rest_of(self, token_ids: Sequence[int]) -> list[int] | None:
        """The tokens behind the registered ones; None if these are not the first, or all."""
        registered = self.record.prompt_token_ids
        size = len(registered)
        if len(token_ids) <= size or list(token_ids[:size]) != registered:
            return None
        return list(token_ids[size:])

    def prepared(self, rest: list[int], *, continues_text: bool = False) -> PreparedPrompt:
        """This prompt with the tokens behind it."""
        return PreparedPrompt(rest, self.record, continues_text)

    def as_resource(self, num_bytes: Mapping[Tier, int]) -> dict[str, Any]:
        """The JSON that clients see; `num_bytes` is what its cache takes in each tier."""
        record = self.record
        resource: dict[str, Any] = {
            "id": record.id,
            "object": "prompt",
            "name": record.name,
            "model": record.model,
            "created_at": record.created_at,
            "expires_at": record.expires_at,
            "ttl": None if record.ttl is None else f"{record.ttl:g}s",
            "status": "ready" if self.error is None else "failed",
            "compression": {
                "method": record.method,
                "prompt_tokens": record.prompt_tokens,
                "gist_tokens": record.gist_tokens,
                "slots": record.slots,
                "ratio": round(record.ratio, 1),
                "cache_bytes": record.cache_bytes,
                "uncompressed_bytes": record.uncompressed_bytes,
            },
            "storage": {
                "tier": self.cache.tier,
                **{f"{tier}_bytes": count for tier, count in num_bytes.items()},
            },
            "tool_names": [tool["function"]["name"] for tool in record.tools or ()],
            "variables": record.variables,
            "usage": {
                "requests": record.requests,
                "tokens_saved": record.tokens_saved,
                "last_used_at": record.last_used_at,
            },
            "metadata": record.metadata,
        }
        return resource if self.error is None else resource | {"error": self.error}


def identity_of(
    owner: str,
    model: str,
    method: Method,
    gist_tokens: int,
    content: str | Sequence[Mapping[str, Any]] | None,
    variables: Sequence[str],
    tools: Sequence[Mapping[str, Any]] | None,
) -> str:
    """What makes two registrations the same prompt: owner, model, method, k, content, names of
    variables and tools."""
    names = sorted(variables)
    parts = json.dumps([owner, model, method, gist_tokens, content, names, tools], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()
