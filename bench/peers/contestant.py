"""A server that takes part, under one load at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter, process_time
from typing import Any

import aiohttp

from ..load.client import LoadClient
from ..load.errors import LoadError
from ..load.loops import closed_loop
from ..load.sample import Sample
from ..load.workload import LoadRequest
from .peer import Peer
from .process import PeerProcess

OnDone = Callable[[Sample], None]


class Refused(Exception):
    """A measurement that must not be compared; the message says why."""


@dataclass(frozen=True)
class Contestant:
    """A server that runs, and its client."""

    peer: Peer
    process: PeerProcess
    client: LoadClient

    async def measure(
        self, requests: Sequence[LoadRequest], input_tokens: int, concurrency: int, on_done: OnDone
    ) -> dict[str, Any]:
        """Figures and samples of `requests`; times in milliseconds but for `duration_s`.

        Raises:
            Refused: a request failed, or the server's token counts are not those asked for.
            LoadError: the server has ended.
        """
        with self.process.awake():
            before = self.process.processor_seconds()
            start, own = perf_counter(), process_time()
            samples = await closed_loop(self.client, requests, concurrency, on_done)
            duration, own = perf_counter() - start, process_time() - own
            after = self.process.processor_seconds()
        if not self.process.is_alive():
            raise LoadError(f"{self.peer.name} has ended:\n{self.process.log_tail()}")
        self._check(samples, input_tokens)
        tokens = sum(sample.wanted_tokens for sample in samples)
        taken = None if before is None or after is None else after - before
        return {
            "output_throughput": tokens / duration,
            "ttft_ms": _median([sample.ttft for sample in samples]),
            "tpot_ms": _median([sample.tpot for sample in samples]),
            "processor_ms_per_token": None if taken is None else 1e3 * taken / tokens,
            "client_processor_share": own / duration,
            "duration_s": round(duration, 4),
            "samples": {
                "sent_at_ms": [_ms(sample.sent_at) for sample in samples],
                "ttft_ms": [_ms(sample.ttft) for sample in samples],
                "e2el_ms": [_ms(sample.e2el) for sample in samples],
                "prompt_tokens": [sample.prompt_tokens for sample in samples],
                "output_tokens": [sample.output_tokens for sample in samples],
            },
        }

    def _check(self, samples: Sequence[Sample], input_tokens: int) -> None:
        for sample in samples:
            if not sample.ok:
                raise Refused(f"a request to {self.peer.name} failed: {sample.error}")
            if not self.peer.tells_usage:
                sample.prompt_tokens = input_tokens
                sample.output_tokens = len(sample.itl) + 1
            found = (sample.prompt_tokens, sample.output_tokens)
            if found != (wanted := (input_tokens, sample.wanted_tokens)):
                raise Refused(
                    f"{self.peer.name} counted {found[0]} + {found[1]} tokens of prompt and answer "
                    f"where {wanted[0]} + {wanted[1]} were asked for"
                )

    async def check_prompt(
        self, request: LoadRequest, input_tokens: int, session: aiohttp.ClientSession
    ) -> None:
        """Have a server that tells no usage in streams count a prompt without one.

        Raises:
            Refused: it counts other than `input_tokens`.
        """
        target = self.client.target
        body = target.body(request) | {"stream": False, "max_tokens": 1}
        del body["stream_options"]
        with self.process.awake():
            async with session.post(target.url + target.endpoint.path, json=body) as response:
                answer = await response.json(content_type=None)
        found = (answer.get("usage") or {}).get("prompt_tokens")
        if found != input_tokens:
            raise Refused(f"{self.peer.name} counted {found} tokens of a prompt of {input_tokens}")


def _median(seconds: Sequence[float | None]) -> float | None:
    known = [value for value in seconds if value is not None]
    return _ms(median(known)) if known else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 3)
