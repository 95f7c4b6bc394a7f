"""Small prompts and caches for the tests of the store."""

from pathlib import Path

import torch
from gistserve.compress.cache import GistCache
from gistserve.compress.store import PromptRecord, new_prompt_id

FINGERPRINT = "model-a"


def cache_of(token_ids: list[int], *, seed: int = 0) -> GistCache:
    """A small gist cache; `seed` stands for what the model made of the prompt."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(3, 1, 2, generator=generator) for _ in range(2)]
    return GistCache.build(
        method="gist",
        keys=tensors[:1],
        values=tensors[1:],
        prompt_token_ids=token_ids,
        model_fingerprint=FINGERPRINT,
        sink_tokens=1,
        gist_tokens=2,
    )


def record_of(token_ids: list[int], **changes) -> PromptRecord:
    """A record for `cache_of(token_ids)`."""
    fields = {
        "id": new_prompt_id(),
        "model": "tiny",
        "text": "some text",
        "method": "gist",
        "gist_tokens": 2,
        "created_at": 1_700_000_000,
        "prompt_token_ids": token_ids,
    }
    return PromptRecord(**{**fields, **changes})


def files(directory: Path, folder: str) -> list[str]:
    """Names of the files in a folder of the store."""
    return sorted(path.name for path in (directory / folder).iterdir())
