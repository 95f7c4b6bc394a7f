"""The rows of a comparison: models, and under a prompt each of a model's caches of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp

from ..load.client import get_json
from ..load.compression import Compression
from ..load.errors import LoadError
from ..load.registered import registered
from ..load.target import Target
from .kept_prompt import KeptPrompt


@dataclass(frozen=True)
class Contender:
    """One row.

    Attributes:
        name: of the row.
        model: the name that it is served under.
        prompt: what its requests follow; None for nothing.
    """

    name: str
    model: str
    prompt: KeptPrompt | None = None

    @property
    def has_gist(self) -> bool:
        """Whether the prompt is a gist."""
        return self.prompt is not None and self.prompt.gist_slots > 0

    def check_cache(self, cached_tokens: int | None, gist_tokens: int | None) -> None:
        """Raises LoadError where a request's usage does not show the cache of the prompt."""
        if self.prompt is not None:
            self.prompt.check_used(self.name, cached_tokens, gist_tokens)


def gist_row(model: str) -> str:
    """Name of the row in which a model has the prompt as gist."""
    return f"{model} + gist"


@asynccontextmanager
async def contenders(
    models: Sequence[str],
    prompt: str | None,
    with_gists: Collection[str],
    target: Target,
    session: aiohttp.ClientSession,
) -> AsyncIterator[list[Contender]]:
    """The models as they are; or each with the prompt as full-prefix cache, and those in
    `with_gists` in a second row with it as gist.

    Prompts are registered on entering and deleted at the end.

    Raises:
        LoadError: the server refuses a prompt, or has no room to keep them all at hand.
    """
    if prompt is None:
        yield [Contender(model, model) for model in models]
        return
    async with AsyncExitStack() as stack:
        found = []
        for model in models:
            ways = [Compression.prefix]
            if model in with_gists:
                ways.append(Compression.gist)
            for way in ways:
                entered = registered([prompt], way, replace(target, model=model), session)
                (resource,) = await stack.enter_async_context(entered)
                name = gist_row(model) if way is Compression.gist else model
                found.append(Contender(name, model, KeptPrompt.of_resource(prompt, resource)))
        for contender in found:
            await _check_at_hand(contender, target, session)
        yield found


async def _check_at_hand(
    contender: Contender, target: Target, session: aiohttp.ClientSession
) -> None:
    """Refuse a prompt that requests would have to wait for, while its cache is brought back."""
    assert contender.prompt is not None
    resource = await get_json(session, f"{target.url}/v1/prompts/{contender.prompt.id}")
    tier = resource["storage"]["tier"] if resource else None
    if tier != "device":
        raise LoadError(
            f"The prompt of {contender.name} does not stay in the model's KV cache beside the "
            f"others (its storage tier is {tier!r}), so speeds would be those of bringing it back: "
            "give the server a larger --prompt-memory or --kv-cache-memory."
        )
