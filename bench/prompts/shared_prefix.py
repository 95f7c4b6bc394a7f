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
        """`own_tokens`: positions that gists, input and answer take behind a prompt.

        Raises:
            LoadError: the prompts are too long for the model, or do not fit the cache with as many
                requests as are sent at a time.
        """
        self._bench = bench
        self._shared = shared
        longest = int((bench.room.max_model_len - own_tokens) / _MARGIN)
        self._prompt_tokens = shared.prompt_tokens or min(_PROMPT_TOKENS, longest)
        if self._prompt_tokens > longest:
            raise LoadError(
                f"Shared prompts of {self._prompt_tokens:,} tokens are too long for the model; "
                f"beside gists, input and answer --shared-tokens can be {longest:,}."
            )
        self._check_room(own_tokens)

    async def run(self) -> dict[str, Any]:
        """What was registered, by arm, and a cell of every arm in every round.

        Raises:
            LoadError: a request fails, or does not use the cache of its arm.
        """
        bench, shared = self._bench, self._shared
        rng = np.random.default_rng((bench.settings.seed, 1))
        prompts = [bench.tokens.text(self._prompt_tokens, rng) for _ in range(shared.prompts)]
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

    def _check_room(self, own_tokens: int) -> None:
        shared, room = self._shared, self._bench.room
        # Both ways lie in the cache at once.
        gists = shared.prompts * room.blocks(own_tokens)
        blocks = gists + room.blocks_of_load(
            self._prompt_tokens, shared.prompts, own_tokens, shared.concurrency
        )
        if reason := room.lack(blocks):
            raise LoadError(
                f"The shared-prefix workload {reason}. Give --kv-cache-memory, or fewer "
                "--shared-prompts, or leave it out with --shared-prompts 0."
            )
