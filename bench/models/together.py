"""All models under load at the same time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter

from ..load.client import LoadClient
from ..load.sample import Sample
from ..load.workload import LoadRequest


async def all_together(
    clients: Mapping[str, LoadClient],
    requests: Mapping[str, Iterator[LoadRequest]],
    count: int,
    concurrency: int,
) -> tuple[dict[str, list[Sample]], float]:
    """Closed loops of `concurrency` requests on every model until each has answered `count`.

    Those that are done earlier go on, so that none is ever left alone. They go on with requests
    that are new: the server has the prompts of earlier ones in its prefix cache.

    Args:
        clients, requests: by the same names; requests never end.

    Returns:
        Samples by name, and the seconds until the last one had answered `count`: what came later
        is not under full load.
    """
    start = perf_counter()
    samples: dict[str, list[Sample]] = {name: [] for name in clients}

    def left() -> bool:
        return any(len(done) < count for done in samples.values())

    async def work(name: str) -> float:
        end = 0.0
        while left():
            samples[name].append(await clients[name].send(next(requests[name]), start))
            end = end or (0.0 if left() else perf_counter() - start)
        return end

    ends = await asyncio.gather(*(work(name) for name in clients for _ in range(concurrency)))
    return samples, min(end for end in ends if end)


def tokens_until(samples: Sequence[Sample], seconds: float) -> float | None:
    """Output tokens that had arrived by then; None where a server tells no usage.

    A chunk stands for as many tokens as its answer has for each of its chunks.
    """
    total = 0.0
    for sample in samples:
        if not sample.ok or sample.ttft is None:
            continue
        if sample.output_tokens is None:
            return None
        gaps = [sample.sent_at + sample.ttft, *sample.itl]
        arrived = sum(time <= seconds for time in itertools.accumulate(gaps))
        total += sample.output_tokens * arrived / len(gaps)
    return total
