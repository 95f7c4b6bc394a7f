"""Runs a registry that registers, changes and deletes prompts until it is killed.

A process of its own: `python prompt_crash_worker.py` answers each line "<store> <seed>" on its
input by forking such a registry, and prints its process id. What the registry is about to do, and
what it has been told is done, it prints too: one JSON object a line, each by one write.
"""

import asyncio
import json
import os
import random
import sys
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import torch
from gistserve.compress.cache import GistCache
from gistserve.compress.store import GistStore
from gistserve.server.api.admission import Admission
from gistserve.server.api.prompt_memory import PromptMemory
from gistserve.server.api.prompt_registry import PromptRegistry
from gistserve.server.api.prompt_schemas import PromptBody, PromptPatch
from gistserve.server.engine.pinned import PinnedCache

TEXTS = 12
QUEUE = Admission(1, 100, None, 1)
FINGERPRINT = "model-a"


class Engine:
    """The engine's face towards prompts, over no model."""

    info = SimpleNamespace(num_blocks=64, block_size=16, kv_bytes_per_token=16, device="cpu")

    def compress(self, token_ids: list[int], method: str) -> "Future[GistCache]":
        generator = torch.Generator().manual_seed(token_ids[0])
        states = [torch.randn(len(token_ids), 1, 2, generator=generator) for _ in range(2)]
        return _done(
            GistCache.build(
                method="prefix",
                keys=states[:1],
                values=states[1:],
                prompt_token_ids=token_ids,
                model_fingerprint=FINGERPRINT,
            )
        )

    def check_cache(self, cache: GistCache) -> None:
        return None

    def is_used(self, pinned: PinnedCache) -> bool:
        return False

    def pin(self, cache: GistCache) -> "Future[PinnedCache]":
        key = bytes.fromhex(cache.content_hash)
        return _done(PinnedCache(key, "prefix", cache.slots, cache.slots, cache.slots, (0,), 1))

    def unpin(self, pinned: PinnedCache) -> "Future[None]":
        return _done(None)


class Renderer:
    async def registered_text(self, text: str, variables: list[str]) -> list[int]:
        return [int(text.split()[-1]), 1, 2]


def _done(result: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def say(**what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def shown(registry: PromptRegistry, entry: Any) -> dict[str, Any]:
    resource = registry.as_resource(entry)
    told = {name: resource[name] for name in ("id", "name", "expires_at", "ttl")}
    return told | {"metadata": resource["metadata"].get("value", {})}


async def one_client(registry: PromptRegistry, model: Any, number: int, seed: int) -> None:
    """Changes prompts of its own for ever."""
    choose = random.Random(seed * 100 + number)
    owner = f"client-{number}"
    while True:
        entries = registry.all_of(owner)
        kind = choose.choice(["register", "register", "patch", "delete"]) if entries else "register"
        entry = choose.choice(entries) if entries else None
        if kind == "register":
            # Few texts: caches are shared between clients, and some prompts are there already.
            text = f"text {choose.randrange(TEXTS)}"
            fields = {"text": text, "name": f"n{choose.randrange(10**9)}", "ttl": "9999999s"}
            say(client=number, kind=kind, text=text, name=fields["name"])
            made, _ = await registry.create(owner, model, Renderer(), QUEUE, PromptBody(**fields))  # type: ignore[arg-type]
            say(client=number, kind="done", prompt=shown(registry, made))
        elif kind == "patch":
            metadata = {"value": choose.random(), "long": "x" * choose.randrange(5000)}
            say(client=number, kind=kind, id=entry.record.id, metadata=metadata["value"])
            await registry.update(entry, PromptPatch(metadata=metadata))
            say(client=number, kind="done", prompt=shown(registry, entry))
        else:
            say(client=number, kind=kind, id=entry.record.id)
            await registry.delete(entry)
            say(client=number, kind="done", prompt=None)


async def run(directory: str, seed: int) -> None:
    model = SimpleNamespace(
        name="tiny", engine=Engine(), adapter=None, fingerprint=FINGERPRINT, max_model_len=100
    )
    with GistStore(directory, flush_seconds=0.02) as store:
        registry = PromptRegistry({"tiny": model}, store, PromptMemory(device=3 * 256))  # type: ignore[dict-item]
        await registry.restore()
        say(kind="open")
        async with asyncio.TaskGroup() as clients:
            for number in range(3):
                clients.create_task(one_client(registry, model, number, seed))


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        directory, seed = line.split()
        process = os.fork()
        if process == 0:
            asyncio.run(run(directory, int(seed)))
        say(kind="started", process=process)
        os.waitpid(process, 0)
        say(kind="ended")


if __name__ == "__main__":
    main()
