"""The server's own figures, to hold against the client's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

PREFIXES = ("gistserve", "vllm")
# Our name -> the server's.
TOTALS = {
    "requests": "e2e_request_latency_seconds_count",
    "prompt_tokens": "prompt_tokens_total",
    "output_tokens": "generation_tokens_total",
    "ttft_seconds": "time_to_first_token_seconds_sum",
    "e2el_seconds": "e2e_request_latency_seconds_sum",
}


def read_totals(text: str, model: str) -> dict[str, float]:
    """The totals of one model, as far as they are there, from Prometheus' text format.

    Lines of other models are passed over; those without a model count.
    """
    names = {f"{prefix}:{theirs}": ours for prefix in PREFIXES for ours, theirs in TOTALS.items()}
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in names and sample.labels.get("model_name", model) == model:
                name = names[sample.name]
                totals[name] = totals.get(name, 0.0) + sample.value
    return totals


async def scrape(session: aiohttp.ClientSession, url: str, model: str) -> dict[str, float]:
    """The totals at /metrics; empty where there are none."""
    try:
        async with session.get(f"{url}/metrics") as response:
            if response.status != 200:
                return {}
            return read_totals(await response.text(), model)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return {}


def agreement(
    before: Mapping[str, float], after: Mapping[str, float], samples: Mapping[str, float]
) -> dict[str, Any] | None:
    """What the server counted between two scrapes, the client's figure, and client / server.

    None where the server tells nothing.
    """
    found = {}
    for name, ours in samples.items():
        if name in after:
            theirs = after[name] - before.get(name, 0.0)
            found[name] = {
                "client": ours,
                "server": theirs,
                "ratio": ours / theirs if theirs else None,
            }
    return found or None
