"""A prompt that all requests to a model follow, kept by the server as full-prefix cache or gist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..load.errors import LoadError


@dataclass(frozen=True)
class KeptPrompt:
    """A registered prompt.

    Attributes:
        num_tokens: of the text, by the model's tokenizer.
        gist_slots: places in the KV cache that stand for it; 0 for a full-prefix cache.
        cache_bytes: keys and values that are kept for it.
    """

    text: str
    id: str
    num_tokens: int
    gist_slots: int
    cache_bytes: int

    @classmethod
    def of_resource(cls, text: str, resource: dict[str, Any]) -> KeptPrompt:
        """From the JSON that /v1/prompts answers."""
        kept = resource["compression"]
        return cls(
            text,
            resource["id"],
            num_tokens=kept["prompt_tokens"],
            gist_slots=kept["slots"] if kept["method"] == "gist" else 0,
            cache_bytes=kept["cache_bytes"],
        )

    def check_used(self, row: str, cached_tokens: int | None, gist_tokens: int | None) -> None:
        """Refuse a request's usage that does not show this cache; `row` is whose request it was.

        More tokens may be cached, as requests may begin alike.

        Raises:
            LoadError: it tells of fewer cached tokens, or of other gist slots.
        """
        if (cached_tokens or 0) >= self.num_tokens and (gist_tokens or 0) == self.gist_slots:
            return
        raise LoadError(
            f"A request to {row} did not use the prompt's cache: its usage tells of "
            f"{cached_tokens or 0} cached tokens and {gist_tokens or 0} gist slots, where there "
            f"should be {self.num_tokens} and {self.gist_slots}."
        )

    def facts(self) -> dict[str, int]:
        """For a result file."""
        return {
            "prompt_tokens": self.num_tokens,
            "gist_slots": self.gist_slots,
            "prompt_cache_bytes": self.cache_bytes,
        }
