"""Rounds of measurements in which the servers take turns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp
import numpy as np

from ..load.errors import LoadError
from ..load.workload import LoadRequest
from .contestant import Contestant, OnDone, Refused
from .prompts import draw_requests
from .settings import PeersSettings

_WARMUP_REQUESTS = 4

Titled = Callable[[str], OnDone]


class Rounds:
    """Puts the same requests on every server, one after the other.

    Parameters
    ----------
    contestants : ours first. All asleep.
    count : tokens of a text by the model's tokenizer, special ones included.
    on_step : given the title of a measurement, returns what is called for every answer of it.
    """

    def __init__(
        self,
        contestants: Sequence[Contestant],
        settings: PeersSettings,
        count: Callable[[str], int],
        on_step: Titled,
    ) -> None:
        self._contestants = contestants
        self._settings = settings
        self._count = count
        self._on_step = on_step

    async def warm_up(self, session: aiohttp.ClientSession) -> None:
        """A few requests to every server, of the lengths that are measured.

        Raises:
            LoadError: a server fails or counts other tokens; nothing could be compared.
        """
        rng = np.random.default_rng((self._settings.seed, 0))
        for contestant in self._contestants:
            requests = self._draw(_WARMUP_REQUESTS, rng)
            length = self._settings.input_tokens
            on_done = self._on_step(f"warm-up: {contestant.peer.name}")
            try:
                if not contestant.peer.tells_usage:
                    await contestant.check_prompt(requests[0], length, session)
                await contestant.measure(requests, length, _WARMUP_REQUESTS, on_done)
            except Refused as error:
                raise LoadError(f"Nothing can be compared: {error}.") from error

    async def run(self) -> AsyncIterator[list[dict[str, Any]]]:
        """The measurements of one round after the other.

        Each names its round and concurrency, and either has figures by server, or tells why it is
        `refused`: then it has no figures at all, as there is nothing to compare them with.
        """
        for number in range(1, self._settings.rounds + 1):
            rng = np.random.default_rng((self._settings.seed, number))
            yield [
                await self._measurement(number, concurrency, rng)
                for concurrency in self._settings.concurrency
            ]

    async def _measurement(
        self, number: int, concurrency: int, rng: np.random.Generator
    ) -> dict[str, Any]:
        requests = self._draw(self._settings.requests_at(concurrency), rng)
        length = self._settings.input_tokens
        # Whoever comes first in a round comes last in another one.
        turn = number % len(self._contestants)
        figures: dict[str, Any] = {}
        about = {"round": number, "concurrency": concurrency}
        for contestant in (*self._contestants[turn:], *self._contestants[:turn]):
            name = contestant.peer.name
            title = f"round {number} of {self._settings.rounds}: {name}, {concurrency} at a time"
            try:
                figures[name] = await contestant.measure(
                    requests, length, concurrency, self._on_step(title)
                )
            except Refused as error:
                return about | {"refused": str(error)}
        return about | {"servers": figures}

    def _draw(self, number: int, rng: np.random.Generator) -> list[LoadRequest]:
        return draw_requests(
            number, self._settings.input_tokens, self._settings.output_tokens, self._count, rng
        )
