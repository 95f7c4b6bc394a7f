"""What every arm answers to labelled inputs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import aiohttp

from ..load.errors import LoadError
from ..load.registered import registered
from ..load.sample import Sample
from ..load.workload import LoadRequest
from .arm import Arm, check_hits
from .bench import Bench
from .settings import Labelled

# Prompts that are registered at once, and requests at a time.
_GROUP = 16


class Quality:
    """Asks all labelled inputs in every arm, greedily."""

    def __init__(self, bench: Bench, arms: Sequence[Arm]) -> None:
        self._bench = bench
        self._arms = arms

    async def run(self) -> dict[str, list[str]]:
        """Answers by arm, in the order of the labelled inputs.

        Raises:
            LoadError: a request fails, or does not use the cache of its arm.
        """
        return {arm.value: await self._answers(arm) for arm in self._arms}

    async def _answers(self, arm: Arm) -> list[str]:
        labelled = self._bench.settings.labelled
        prompts = list(dict.fromkeys(row.prompt for row in labelled))
        answers: dict[int, str] = {}
        for start in range(0, len(prompts), _GROUP):
            self._bench.on_step(
                f"labelled inputs, {arm.label}: {len(answers)} of {len(labelled)} answers"
            )
            group = prompts[start : start + _GROUP]
            rows = [(i, row) for i, row in enumerate(labelled) if row.prompt in set(group)]
            answers |= await self._group(arm, group, rows)
        return [answers[i] for i in range(len(labelled))]

    async def _group(
        self, arm: Arm, prompts: Sequence[str], rows: Sequence[tuple[int, Labelled]]
    ) -> dict[int, str]:
        bench = self._bench
        upcoming = iter(rows)
        answers: dict[int, str] = {}
        async with AsyncExitStack() as stack:
            kept: dict[str, dict[str, Any]] = {}
            if arm.compression is not None:
                entered = registered(prompts, arm.compression, bench.client.target, bench.session)
                kept = dict(zip(prompts, await stack.enter_async_context(entered), strict=True))

            async def work() -> None:
                for place, row in upcoming:
                    answers[place] = await self._ask(arm, row, kept.get(row.prompt))

            await asyncio.gather(*(work() for _ in range(_GROUP)))
        return answers

    async def _ask(self, arm: Arm, row: Labelled, kept: dict[str, Any] | None) -> str:
        bench, target = self._bench, self._bench.client.target
        request = LoadRequest(
            row.prompt, kept["id"] if kept else None, row.input, bench.settings.max_tokens
        )
        body = target.body(request) | {"stream": False, "ignore_eos": False}
        del body["stream_options"]
        try:
            async with bench.session.post(target.url + target.endpoint.path, json=body) as response:
                if response.status != 200:
                    answer = await response.text()
                    raise LoadError(f"{arm.label}: HTTP {response.status}: {answer[:300]}.")
                reply = await response.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise LoadError(f"{arm.label}: no answer: {error!r}.") from error
        details = reply["usage"]["prompt_tokens_details"]
        sample = Sample(0.0, 0, output_tokens=0, **details)
        check_hits(arm, [sample], [kept["compression"]] if kept else [])
        return str(reply["choices"][0]["message"]["content"] or "")
