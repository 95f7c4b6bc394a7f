"""PromptRecord: one registered prompt, as the store keeps it."""

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import UnionType
from typing import Any, Self, get_args, get_origin

from .cache import GistCache, Method, hash_tokens
from .errors import PromptRecordError

FORMAT_VERSION = 1

_ID = re.compile(r"pmpt_[0-9a-z]{8,64}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")


def new_prompt_id() -> str:
    """A fresh id, `pmpt_` and 96 random bits in hex."""
    return f"pmpt_{secrets.token_hex(12)}"


@dataclass(frozen=True, kw_only=True)
class PromptRecord:
    """A registered prompt. Times are Unix seconds; treat lists and dicts as read-only.

    Exactly one of `messages` and `text` is set; `tools` (OpenAI's function tools) come with
    messages only. With `variables` (names of `{{name}}` in them) the prompt's tokens are those in
    front of the first one. With a `ttl` (seconds) every use sets `expires_at` to that long after
    it. `owner` is a hash of the API key that made the prompt, "" without keys. The fields from
    `prompt_hash` to `uncompressed_bytes` describe the cache and are filled in by `for_cache` (the
    store does so in `put`).
    Raises PromptRecordError for values that could not be kept.
    """

    id: str
    model: str
    method: Method
    created_at: int
    prompt_token_ids: list[int]
    owner: str = ""
    name: str | None = None
    messages: list[dict[str, Any]] | None = None
    text: str | None = None
    tools: list[dict[str, Any]] | None = None
    gist_tokens: int = 0
    expires_at: float | None = None
    ttl: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    auto_match: bool = False
    variables: list[str] = field(default_factory=list)

    prompt_hash: str = ""
    cache_hash: str = ""
    model_fingerprint: str = ""
    slots: int = 0
    sink_tokens: int = 0
    next_position: int = 0
    cache_bytes: int = 0
    uncompressed_bytes: int = 0

    requests: int = 0
    tokens_saved: int = 0
    last_used_at: float | None = None

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            if type(getattr(self, name)) not in kinds:
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise PromptRecordError(
                    f"prompt field {name} is {getattr(self, name)!r}, expected {wanted}"
                )
        if not _ID.fullmatch(self.id):
            raise PromptRecordError(f"prompt id {self.id!r} is not one made by new_prompt_id")
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise PromptRecordError(
                f"prompt name {self.name!r} must be 1 to 64 of letters, digits, '.', '_' and '-'"
            )
        if (self.messages is None) == (self.text is None):
            raise PromptRecordError("a prompt has either messages or text")
        if self.tools is not None and self.messages is None:
            raise PromptRecordError("a prompt of text has no tools")
        if self.method not in get_args(Method):
            raise PromptRecordError(f"prompt method {self.method!r} is not gist or prefix")

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)

    @property
    def ratio(self) -> float:
        """Compression ratio: prompt tokens a slot; 0 before the cache is known."""
        return self.prompt_tokens / self.slots if self.slots else 0.0

    def used(self, *, tokens_saved: int, at: float) -> Self:
        """This record after one more request that used the prompt at `at`."""
        return replace(
            self,
            requests=self.requests + 1,
            tokens_saved=self.tokens_saved + tokens_saved,
            last_used_at=at,
            expires_at=self.expires_at if self.ttl is None else at + self.ttl,
        )

    def for_cache(self, cache: GistCache) -> Self:
        """This record with the fields that describe `cache`.

        Raises PromptRecordError when the cache is of another prompt, method or size.
        """
        manifest = cache.manifest
        for name, mine, theirs in (
            ("method", self.method, manifest.method),
            ("gist_tokens", self.gist_tokens, manifest.gist_tokens),
            ("prompt_hash", hash_tokens(self.prompt_token_ids), manifest.prompt_hash),
        ):
            if mine != theirs:
                raise PromptRecordError(
                    f"{self.id}: {name} is {mine!r}, but {theirs!r} in its cache"
                )
        return replace(
            self,
            prompt_hash=manifest.prompt_hash,
            cache_hash=cache.content_hash,
            model_fingerprint=manifest.model_fingerprint,
            slots=manifest.slots,
            sink_tokens=manifest.sink_tokens,
            next_position=manifest.next_position,
            cache_bytes=cache.num_bytes,
            uncompressed_bytes=cache.uncompressed_bytes,
        )

    def to_bytes(self) -> bytes:
        """JSON with a format version and a checksum over the record.

        Raises PromptRecordError when messages or metadata hold what JSON cannot.
        """
        record = asdict(self)
        try:
            digest = _checksum(record)
        except (TypeError, ValueError) as error:
            raise PromptRecordError(f"{self.id} cannot be written as JSON: {error}") from error
        content = {"format_version": FORMAT_VERSION, "sha256": digest, "record": record}
        return json.dumps(content).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`.

        Raises PromptRecordError for an unknown format version and for anything damaged.
        """
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise PromptRecordError(f"prompt record is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise PromptRecordError("prompt record is not a JSON object")
        if (version := content.get("format_version")) != FORMAT_VERSION:
            raise PromptRecordError(
                f"prompt record has format_version {version!r}, this version of gistserve reads "
                f"{FORMAT_VERSION}"
            )
        record = content.get("record")
        if not isinstance(record, dict) or content.get("sha256") != _checksum(record):
            raise PromptRecordError("prompt record does not match its checksum: it is corrupted")
        if differing := sorted((record.keys() ^ _KINDS.keys()) - (_LATER - record.keys())):
            raise PromptRecordError(f"prompt record has missing or unknown field {differing[0]!r}")
        stored = cls(**record)
        if not _HASH.fullmatch(stored.cache_hash):
            raise PromptRecordError(f"prompt record has cache_hash {stored.cache_hash!r}")
        return stored


def _checksum(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _kinds(annotation: Any) -> tuple[type, ...]:
    """The classes that a field's annotation allows."""
    if annotation == Method:
        return (str,)
    options = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    kinds = tuple(get_origin(option) or option for option in options)
    return (*kinds, int) if float in kinds else kinds


# Records of the first releases lack these, and have their defaults.
_LATER = {"variables", "ttl", "tools"}
_KINDS = {item.name: _kinds(item.type) for item in fields(PromptRecord)}
