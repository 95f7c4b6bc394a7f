"""Rounds of measurements in which the rows of a comparison take turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from ..load.client import LoadClient
from ..load.errors import LoadError
from ..load.loops import closed_loop
from ..load.sample import Sample
from ..load.words import TokensPerWord
from ..load.workload import LoadRequest, Workload
from .contender import Contender
from .together import all_together, tokens_until

TOGETHER = "together"


def alone(concurrency: int) -> str:
    """Name of the arm in which only one row is under load."""
    return f"alone_{concurrency}"


class Rounds:
    """Measures rows alone, one request and several at a time, and models together.

    A model with a gist has two rows; together with others it is measured once in each.

    Parameters
    ----------
    compared : the first is the one that others are compared with.
    clients : one a model.
    tokens : how each model's tokenizer splits words.
    concurrency : requests at a time in one row, besides one.
    requests : of every row and arm in a round.
    on_step : called with a line before every measurement.
    """

    def __init__(
        self,
        compared: Sequence[Contender],
        clients: Mapping[str, LoadClient],
        tokens: Mapping[str, TokensPerWord],
        workload: Workload,
        *,
        concurrency: int,
        requests: int,
        on_step: Callable[[str], None],
    ) -> None:
        self._compared = list(compared)
        self._clients = {contender.name: clients[contender.model] for contender in compared}
        self._tokens = tokens
        self._workload = workload
        self._levels = tuple(dict.fromkeys((1, concurrency)))
        self._concurrency = concurrency
        self._requests = requests
        self._on_step = on_step

    async def run(self, rounds: int, seed: int) -> list[dict[str, Any]]:
        """Figures by arm and row of every round; a first round, not kept, warms up.

        Raises:
            LoadError: requests fail, or do not use the cache of their row.
        """
        found = []
        for number in range(rounds + 1):
            rng = np.random.default_rng((seed, number))
            title = f"round {number} of {rounds}" if number else "warm-up"
            found.append(await self._round(title, number, rng))
        return found[1:]

    async def _round(self, title: str, number: int, rng: np.random.Generator) -> dict[str, Any]:
        turn = number % len(self._compared)
        figures: dict[str, Any] = {}
        for level in self._levels:
            # Whoever comes first in a round comes last in another one.
            for contender in self._compared[turn:] + self._compared[:turn]:
                self._on_step(f"{title}: {contender.name}, {level} at a time")
                found = await self._alone(contender, level, rng)
                figures.setdefault(alone(level), {})[contender.name] = found
        if len({contender.model for contender in self._compared}) > 1:
            kinds = sorted({contender.has_gist for contender in self._compared})
            for with_gists in kinds if number % 2 else reversed(kinds):
                self._on_step(f"{title}: together{', with gists' if with_gists else ''}")
                found = await self._together(with_gists, rng)
                figures.setdefault(TOGETHER, {}).update(found)
        return figures

    async def _alone(
        self, contender: Contender, concurrency: int, rng: np.random.Generator
    ) -> dict[str, Any]:
        drawn = self._draw(contender, self._tokens[contender.model], rng)
        start = perf_counter()
        samples = await closed_loop(
            self._clients[contender.name], drawn, concurrency, lambda _: None
        )
        return _figures(contender, samples, perf_counter() - start)

    async def _together(self, with_gists: bool, rng: np.random.Generator) -> dict[str, Any]:
        """Every model under load once, by the same texts: those that can with their gist, or none.

        Returns figures of the rows that have a gist, or of those that have none.
        """
        one_each = {c.model: c for c in self._compared if with_gists or not c.has_gist}
        crowd = list(one_each.values())
        tokens = self._tokens[crowd[0].model]
        seed = int(rng.integers(2**32))
        endless = {c.name: self._draw_on(c, tokens, np.random.default_rng(seed)) for c in crowd}
        clients = {c.name: self._clients[c.name] for c in crowd}
        found, duration = await all_together(clients, endless, self._requests, self._concurrency)
        figures = {c.name: _figures(c, found[c.name], duration) for c in crowd}
        return {c.name: figures[c.name] for c in crowd if c.has_gist == with_gists}

    def _draw_on(
        self, contender: Contender, tokens: TokensPerWord, rng: np.random.Generator
    ) -> Iterator[LoadRequest]:
        while True:
            yield from self._draw(contender, tokens, rng)

    def _draw(
        self, contender: Contender, tokens: TokensPerWord, rng: np.random.Generator
    ) -> list[LoadRequest]:
        kept = [contender.prompt] if contender.prompt else []
        texts, ids = [prompt.text for prompt in kept], [prompt.id for prompt in kept]
        return self._workload.draw_requests(self._requests, texts, ids, tokens, rng)


def _figures(contender: Contender, samples: Sequence[Sample], duration: float) -> dict[str, Any]:
    """One row in one arm of one round."""
    for sample in samples:
        if not sample.ok:
            raise LoadError(f"a request to {contender.name} failed: {sample.error}.")
        contender.check_cache(sample.cached_tokens, sample.gist_tokens)
    tokens = tokens_until(samples, duration)
    return {
        "output_throughput": None if tokens is None else tokens / duration,
        "ttft_ms": [round(1e3 * (sample.ttft or 0.0), 3) for sample in samples],
        "tpot_ms": [round(1e3 * s.tpot, 3) for s in samples if s.tpot is not None],
        "output_tokens": [sample.output_tokens for sample in samples],
        "duration_s": round(duration, 4),
    }
