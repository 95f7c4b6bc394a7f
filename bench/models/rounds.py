"""Rounds of measurements in which the models take turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from ..load.client import LoadClient
from ..load.errors import LoadError
from ..load.loops import closed_loop
from ..load.sample import Sample
from ..load.words import TokensPerWord
from ..load.workload import LoadRequest, Workload
from .together import all_together, tokens_until

TOGETHER = "together"


def alone(concurrency: int) -> str:
    """Name of the arm in which only one model is under load."""
    return f"alone_{concurrency}"


class Rounds:
    """Measures models alone, one request and several at a time, and all of them together.

    Parameters
    ----------
    clients : one a model; the first is the one that others are compared with.
    tokens : how each model's tokenizer splits words.
    concurrency : requests at a time to one model, besides one.
    requests : of every model and arm in a round.
    on_step : called with a line before every measurement.
    """

    def __init__(
        self,
        clients: Mapping[str, LoadClient],
        tokens: Mapping[str, TokensPerWord],
        workload: Workload,
        *,
        concurrency: int,
        requests: int,
        on_step: Callable[[str], None],
    ) -> None:
        self._clients = clients
        self._tokens = tokens
        self._workload = workload
        self._levels = tuple(dict.fromkeys((1, concurrency)))
        self._concurrency = concurrency
        self._requests = requests
        self._on_step = on_step

    async def run(self, rounds: int, seed: int) -> list[dict[str, Any]]:
        """Figures by arm and model of every round; a first round, not kept, warms up.

        Raises:
            LoadError: requests fail.
        """
        found = []
        for number in range(rounds + 1):
            rng = np.random.default_rng((seed, number))
            title = f"round {number} of {rounds}" if number else "warm-up"
            found.append(await self._round(title, number, rng))
        return found[1:]

    async def _round(self, title: str, number: int, rng: np.random.Generator) -> dict[str, Any]:
        names = list(self._clients)
        turn = number % len(names)
        figures: dict[str, Any] = {}
        for level in self._levels:
            # Whoever comes first in a round comes last in another one.
            for name in names[turn:] + names[:turn]:
                self._on_step(f"{title}: {name}, {level} at a time")
                start = perf_counter()
                samples = await closed_loop(
                    self._clients[name], self._draw(name, rng), level, lambda _: None
                )
                duration = perf_counter() - start
                figures.setdefault(alone(level), {})[name] = _figures(name, samples, duration)
        if len(names) > 1:
            self._on_step(f"{title}: together")
            requests = self._draw(names[0], rng)
            found, duration = await all_together(self._clients, requests, self._concurrency)
            figures[TOGETHER] = {n: _figures(n, found[n], duration) for n in names}
        return figures

    def _draw(self, name: str, rng: np.random.Generator) -> list[LoadRequest]:
        return self._workload.draw_requests(self._requests, [], [], self._tokens[name], rng)


def _figures(name: str, samples: Sequence[Sample], duration: float) -> dict[str, Any]:
    """One model in one arm of one round."""
    for failed in (sample for sample in samples if not sample.ok):
        raise LoadError(f"a request to {name} failed: {failed.error}.")
    tokens = tokens_until(samples, duration)
    return {
        "output_throughput": None if tokens is None else tokens / duration,
        "ttft_ms": [round(1e3 * (sample.ttft or 0.0), 3) for sample in samples],
        "tpot_ms": [round(1e3 * s.tpot, 3) for s in samples if s.tpot is not None],
        "output_tokens": [sample.output_tokens for sample in samples],
        "duration_s": round(duration, 4),
    }
