"""Whether prompts fit the model and its KV cache, before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp

from ..load.errors import LoadError
from .bench import Bench


async def check_prompts(bench: Bench, prompts: Mapping[str, str], own_tokens: int) -> None:
    """Refuse prompts that no arm could serve.

    Args:
        own_tokens: positions that gists, input and answer take behind a prompt.

    Raises:
        LoadError: a prompt with `own_tokens` more is longer than the model takes, or does not fit
            the KV cache even for one request.
    """
    for name, text in prompts.items():
        count = await _count(bench, text)
        if count + own_tokens > bench.room.max_model_len:
            raise LoadError(
                f"Prompt {name} has {count:,} tokens; with {own_tokens} for gists, input and "
                f"answer that is more than the model's {bench.room.max_model_len:,}. Take a "
                "shorter one, or smaller --input-tokens and --output-tokens."
            )
        if reason := bench.room.lack(bench.room.blocks_of_load(count, 1, own_tokens, 1)):
            raise LoadError(f"Prompt {name} {reason}. Give --kv-cache-memory, or a shorter prompt.")


async def _count(bench: Bench, text: str) -> int:
    """Tokens of a prompt as the model's chat template writes it."""
    target = bench.client.target
    messages = [{"role": "system", "content": text}]
    body = {"model": target.model, "messages": messages, "add_generation_prompt": False}
    try:
        async with bench.session.post(f"{target.url}/tokenize", json=body) as response:
            response.raise_for_status()
            answer = await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise LoadError(f"{target.url}/tokenize gave no answer: {error!r}.") from error
    return int(answer["count"])
