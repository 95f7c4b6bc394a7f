"""Shared prompts as the server's own resource: registered before the test, deleted after it."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import aiohttp

from .compression import Compression
from .endpoint import Endpoint
from .errors import LoadError
from .target import Target, shared_text

logger = logging.getLogger(__name__)


@asynccontextmanager
async def registered(
    prompts: Sequence[str],
    compression: Compression,
    target: Target,
    session: aiohttp.ClientSession,
) -> AsyncIterator[list[dict[str, Any]]]:
    """Register the prompts; yields their resources, each with the `seconds` that it took.

    Those that were registered before are used and left alone.

    Raises:
        LoadError: the server refuses one, or has no such resource.
    """
    made: list[dict[str, Any]] = []
    try:
        for prompt in prompts:
            made.append(await _register(prompt, compression, target, session))
        yield made
    finally:
        for resource in made:
            if resource["created"]:
                await _delete(f"{target.url}/v1/prompts/{resource['id']}", session)


async def _register(
    prompt: str, compression: Compression, target: Target, session: aiohttp.ClientSession
) -> dict[str, Any]:
    content: dict[str, Any] = {"text": shared_text(prompt)}
    if target.endpoint is Endpoint.chat:
        content = {"messages": [{"role": "system", "content": prompt}]}
    body = {"model": target.model, "compression": compression, **content}
    start = perf_counter()
    try:
        async with session.post(f"{target.url}/v1/prompts", json=body) as response:
            answer = await response.text()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise LoadError(f"{target.url} did not register a prompt: {error!r}.") from error
    seconds = perf_counter() - start
    if response.status not in (200, 201):
        reason = f"HTTP {response.status}: {answer[:300]}."
        if response.status == 404:
            reason += " It takes a gistserve server to register prompts."
        raise LoadError(f"{target.url} did not register a prompt: {reason}")
    return json.loads(answer) | {"seconds": seconds, "created": response.status == 201}


async def _delete(url: str, session: aiohttp.ClientSession) -> None:
    try:
        async with session.delete(url) as response:
            response.raise_for_status()
    except (aiohttp.ClientError, TimeoutError) as error:
        logger.warning("%s stays registered: %s", url, error)


def prompt_facts(resources: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For a result file: what the registered prompts cost."""
    sizes = [resource["compression"] for resource in resources]
    return {
        "method": sizes[0]["method"],
        "prompt_tokens": [size["prompt_tokens"] for size in sizes],
        "slots": [size["slots"] for size in sizes],
        "cache_bytes": sum(size["cache_bytes"] for size in sizes),
        "uncompressed_bytes": sum(size["uncompressed_bytes"] for size in sizes),
        "registration_ms": [round(1e3 * resource["seconds"], 3) for resource in resources],
    }
