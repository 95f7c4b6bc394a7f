"""Closed loop: so many requests at a time. Open loop: requests at their times, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Protocol

from .sample import Sample
from .workload import LoadRequest

OnDone = Callable[[Sample], None]


class Sender(Protocol):
    """What answers requests, as `LoadClient`."""

    async def send(
        self, request: LoadRequest, start: float, due: float | None = None
    ) -> Sample: ...


async def closed_loop(
    client: Sender, requests: Iterable[LoadRequest], concurrency: int, on_done: OnDone
) -> list[Sample]:
    """Keep `concurrency` requests in flight until all are answered; samples as they ended."""
    start = perf_counter()
    remaining = iter(requests)
    samples: list[Sample] = []

    async def work() -> None:
        for request in remaining:
            sample = await client.send(request, start)
            samples.append(sample)
            on_done(sample)

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return samples


async def open_loop(
    client: Sender,
    requests: Sequence[LoadRequest],
    times: Sequence[float],
    on_done: OnDone,
) -> list[Sample]:
    """Send every request at its time, in seconds from now; samples in order of sending."""
    start = perf_counter()

    async def send(request: LoadRequest, due: float) -> Sample:
        sample = await client.send(request, start, due)
        on_done(sample)
        return sample

    async with asyncio.TaskGroup() as group:
        tasks = []
        for request, due in zip(requests, times, strict=True):
            await asyncio.sleep(max(0.0, start + due - perf_counter()))
            tasks.append(group.create_task(send(request, due)))
    return [task.result() for task in tasks]
