"""Many prompts that many requests share: gists against caches of the full prompts."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import numpy as np

from ..load.errors import LoadError
from ..load.registered import registered
from .arm import KEPT, Arm, rotated
from .bench import Bench
from .load_cell import load_cell
from .settings import SharedPrefix

# Length of a prompt where the model takes it, and by how much a synthetic one may miss its length.
_PROMPT_TOKENS = 1000
_MARGIN = 1.1


class SharedPrefixLoad:
    """All prompts lie in the server's cache in both ways at once, while the ways take turns."""

    def __init__(self, bench: Bench, shared: SharedPrefix, own_tokens: int) -> None:
        """`own_tokens`: positions that gists, input and answer take behind a prompt."""
        self._bench = bench
        self._shared = shared
        longest = int((bench.room.max_model_len - own_tokens) / _MARGIN)
        self._prompt_tokens = shared.prompt_tokens or min(_PROMPT_TOKENS, longest)

    async def run(self) -> dict[str, Any]:
        """What was registered, by arm, and a cell of every arm in every round.

        Raises:
            LoadError: the cache has no room for it, a request fails, or does not use its arm's
                cache.
        """
        bench, shared = self._bench, self._shared
        rng = np.random.default_rng((bench.settings.seed, 1))
        prompts = [bench.tokens.text(self._prompt_tokens, rng) for _ in range(shared.prompts)]
        self._check_room()
        async with AsyncExitStack() as stack:
            made: dict[Arm, list[dict[str, Any]]] = {}
            for arm in KEPT:
                bench.on_step(f"{shared.prompts} shared prompts, {arm.label}: registering")
                assert arm.compression is not None
                entered = registered(prompts, arm.compression, bench.client.target, bench.session)
                made[arm] = await stack.enter_async_context(entered)
            for arm in KEPT:
                bench.on_step(f"shared prompts, {arm.label}: warming up")
                await self._cell(prompts, arm, made[arm], shared.prompts, 0)
            rounds = [await self._round(prompts, made, n + 1) for n in range(bench.settings.rounds)]
        return {
            "registered": {
                arm.value: {
                    "compression": [resource["compression"] for resource in resources],
                    "registration_s": [resource["seconds"] for resource in resources],
                }
                for arm, resources in made.items()
            },
            "rounds": rounds,
        }

    async def _round(
        self, prompts: list[str], made: dict[Arm, list[dict[str, Any]]], number: int
    ) -> dict[str, Any]:
        rounds, shared = self._bench.settings.rounds, self._shared
        found = {}
        for arm in rotated(KEPT, number):
            self._bench.on_step(f"shared prompts, round {number} of {rounds}: {arm.label}")
            count = shared.prompts * shared.requests
            found[arm] = await self._cell(prompts, arm, made[arm], count, number)
        return {arm.value: found[arm] for arm in KEPT}

    async def _cell(
        self,
        prompts: list[str],
        arm: Arm,
        resources: list[dict[str, Any]],
        count: int,
        number: int,
    ) -> dict[str, Any]:
        bench = self._bench
        ids = [resource["id"] for resource in resources]
        requests = bench.requests(prompts, ids, count, 2, number)
        kept = [resource["compression"] for resource in resources]
        return await load_cell(bench.client, arm, requests, self._shared.concurrency, kept)

    def _check_room(self) -> None:
        """By the full prompts alone: gists come on top, but are small, and their turn is shorter.

        Raises:
            LoadError: the prompts and as many requests as are sent at a time do not fit.
        """
        shared, settings = self._shared, self._bench.settings
        room = self._bench.room
        own = settings.input_tokens + settings.output_tokens
        blocks = room.blocks_of_load(self._prompt_tokens, shared.prompts, own, shared.concurrency)
        if reason := room.lack(blocks):
            raise LoadError(
                f"The shared-prefix workload {reason}. Give --kv-cache-memory, or fewer "
                "--shared-prompts, or leave it out with --shared-prompts 0."
            )
