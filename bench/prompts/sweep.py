"""Prompts one after the other, each by all arms in turns, several times over."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from ..load.registered import registered
from ..load.workload import LoadRequest
from .arm import Arm, rotated
from .bench import Bench
from .load_cell import load_cell, middle


class Sweep:
    """Measures prompts by arms. In a round an arm registers the prompt, is asked, and deletes it.

    So a registration is measured in every round, and a prompt that is sent in full finds no
    registered one that it could be served from.
    """

    def __init__(self, bench: Bench, prompts: dict[str, str], arms: Sequence[Arm]) -> None:
        self._bench = bench
        self._prompts = prompts
        self._arms = arms
        self._left_out: dict[tuple[str, Arm, int], str] = {}

    async def run(self) -> list[dict[str, Any]]:
        """Of every round, by prompt and arm: registration, sizes, and a cell a concurrency.

        Raises:
            LoadError: a request fails, or does not use the cache of its arm.
        """
        rounds = self._bench.settings.rounds
        return [await self._round(number) for number in range(rounds)]

    async def _round(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for index, name in enumerate(self._prompts):
            # Whoever comes first in a round comes last in another one.
            turns = rotated(self._arms, number + index)
            done = {arm: await self._arm(number, index, name, arm) for arm in turns}
            found[name] = {arm.value: done[arm] for arm in self._arms}
        return found

    async def _arm(self, number: int, index: int, name: str, arm: Arm) -> dict[str, Any]:
        bench, text = self._bench, self._prompts[name]
        title = f"round {number + 1} of {bench.settings.rounds}: {name}, {arm.label}"
        async with AsyncExitStack() as stack:
            made: list[dict[str, Any]] = []
            if arm.compression is not None:
                bench.on_step(f"{title}: registering")
                entered = registered([text], arm.compression, bench.client.target, bench.session)
                made = await stack.enter_async_context(entered)
            kept = [resource["compression"] for resource in made]
            ids = [resource["id"] for resource in made] or [None]

            def draw(count: int, level: int) -> list[LoadRequest]:
                return bench.requests([text], ids, count, number, index, level)

            warm_up = await load_cell(bench.client, arm, draw(1, 0), 1, kept)
            cells: dict[str, Any] = {}
            for level in bench.settings.concurrencies:
                bench.on_step(f"{title}: {level} at a time")
                count = max(level, bench.settings.requests)
                reason = self._reason(name, arm, level, kept, warm_up, cells)
                cells[str(level)] = (
                    {"left_out": reason}
                    if reason
                    else await load_cell(bench.client, arm, draw(count, level), level, kept)
                )
        return {
            "registration_s": made[0]["seconds"] if made else 0.0,
            "compression": kept[0] if kept else None,
            "prompt_tokens": warm_up["prompt_tokens"][0],
            "cells": cells,
        }

    def _reason(
        self,
        name: str,
        arm: Arm,
        level: int,
        kept: Sequence[dict[str, Any]],
        warm_up: dict[str, Any],
        cells: dict[str, Any],
    ) -> str | None:
        """Why a cell is left out, decided once for all rounds; None where it is measured."""
        key = (name, arm, level)
        if key in self._left_out:
            return self._left_out[key] or None
        settings, room = self._bench.settings, self._bench.room
        slots = kept[0]["slots"] if kept else 0
        cached = kept[0]["prompt_tokens"] if kept else 0
        own = warm_up["prompt_tokens"][0] - cached + settings.output_tokens
        reason = room.lack(room.blocks_of_load(slots, len(kept), own, level))
        alone = middle(cells.get("1", warm_up), "e2el_ms") or 0.0
        seconds = alone / 1e3 * max(level, settings.requests)
        if reason is None and level > 1 and seconds > settings.cell_seconds:
            reason = f"would take up to {seconds:.0f} s, of {settings.cell_seconds:g} allowed"
        self._left_out[key] = reason or ""
        return reason
