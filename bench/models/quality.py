"""What the models answer to labelled prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import mean, stdev
from typing import Any

import aiohttp

from ...training.metrics import exact_match, rouge_l
from ...training.records import DataError, read_records, read_text
from ..load.endpoint import Endpoint
from ..load.errors import LoadError
from ..load.target import Target
from .contender import Contender


@dataclass(frozen=True)
class Labelled:
    """A prompt and the response that is right."""

    prompt: str
    response: str


def read_labelled(
    place: str, prompt_field: str, response_field: str, limit: int | None
) -> list[Labelled]:
    """The first `limit` records of a JSONL file (all where None).

    Raises:
        LoadError: a file that cannot be read, a field that is missing, or no records at all.
    """
    try:
        rows = [
            Labelled(
                read_text(record, prompt_field, where), read_text(record, response_field, where)
            )
            for where, record in islice(read_records(place), limit)
        ]
    except DataError as error:
        raise LoadError(str(error)) from error
    if not rows:
        raise LoadError(f"{place} has no records.")
    return rows


async def answers(
    session: aiohttp.ClientSession,
    target: Target,
    contender: Contender,
    rows: Sequence[Labelled],
    *,
    max_tokens: int,
    concurrency: int,
    on_done: Callable[[], None],
) -> list[str]:
    """Greedy answers in the order of `rows`; `target` says how the contender is asked.

    Raises:
        LoadError: a request fails, or does not use the cache of the contender's prompt.
    """
    target = replace(target, model=contender.model)
    texts = [""] * len(rows)
    upcoming = iter(enumerate(rows))

    async def work() -> None:
        for place, row in upcoming:
            texts[place] = await _answer(session, target, contender, row.prompt, max_tokens)
            on_done()

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return texts


async def _answer(
    session: aiohttp.ClientSession,
    target: Target,
    contender: Contender,
    prompt: str,
    max_tokens: int,
) -> str:
    body: dict[str, Any] = {"model": target.model, "max_tokens": max_tokens, "temperature": 0.0}
    if contender.prompt is not None:
        body["prompt_id"] = contender.prompt.id
    if target.endpoint is Endpoint.chat:
        body["messages"] = [{"role": "user", "content": prompt}]
    else:
        body["prompt"] = prompt
    try:
        async with session.post(target.url + target.endpoint.path, json=body) as response:
            text = await response.text()
            if response.status != 200:
                raise LoadError(
                    f"{contender.name} gave no answer: HTTP {response.status}: {text[:300]}."
                )
            reply = await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise LoadError(f"{contender.name} gave no answer: {error!r}.") from error
    details = (reply.get("usage") or {}).get("prompt_tokens_details") or {}
    contender.check_cache(details.get("cached_tokens"), details.get("gist_tokens"))
    choice = reply["choices"][0]
    return str(choice["message"]["content"] if target.endpoint is Endpoint.chat else choice["text"])


def scores(texts: Sequence[str], rows: Sequence[Labelled]) -> dict[str, Any]:
    """ROUGE-L (F1) and exact match of the answers, in [0, 1], each with its standard error."""
    rouge = [rouge_l(text, row.response) for text, row in zip(texts, rows, strict=True)]
    exact = [float(exact_match(text, row.response)) for text, row in zip(texts, rows, strict=True)]
    return {
        "examples": len(rows),
        "rouge_l": _mean(rouge),
        "exact_match": _mean(exact),
        "mean_words": mean(len(text.split()) for text in texts),
    }


def _mean(values: Sequence[float]) -> dict[str, float]:
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return {"mean": mean(values), "standard_error": error}
