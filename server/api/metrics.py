"""GET /metrics: Prometheus' text format."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

from fastapi import APIRouter, Depends
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from ..engine.engine_stats import EngineStats
from .context import ApiContext, ModelDesk, api_context
from .held_cache import TIERS, Tier
from .prompt_registry import PromptRegistry

router = APIRouter(tags=["operation"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(context: Annotated[ApiContext, Depends(api_context)]) -> Response:
    """Gauges, totals and latencies of every model, each labelled `model_name`."""
    return Response(generate_latest(context.metrics), media_type=CONTENT_TYPE_LATEST)


class ServerCollector(Collector):
    """Reads engines, meters and registered prompts at the moment of the scrape."""

    def __init__(self, desks: Mapping[str, ModelDesk], prompts: PromptRegistry) -> None:
        self._desks = desks
        self._prompts = prompts

    def collect(self) -> Iterator[Metric]:
        stats = {name: desk.model.engine.stats() for name, desk in self._desks.items()}
        yield from _gauges(stats)
        yield self._current_step()
        yield from _engine_totals(stats)
        yield from _answer_totals(self._desks)
        yield from self._gists()
        yield from self._tiers()

    def _current_step(self) -> Metric:
        return _gauge(
            "current_step_seconds",
            "How long ago the step that the engine is in began; 0 without work.",
            ((name, desk.model.engine.seconds_in_step) for name, desk in self._desks.items()),
        )

    def _gists(self) -> Iterator[Metric]:
        held = {name: self._prompts.gists_of(name) for name in self._desks}
        yield _gauge(
            "gist_prompts",
            "Registered prompts that are kept as gists.",
            ((name, len(records)) for name, records in held.items()),
        )
        yield _gauge(
            "gist_cache_bytes",
            "Bytes of keys and values of these gists.",
            ((name, sum(r.cache_bytes for r in records)) for name, records in held.items()),
        )

    def _tiers(self) -> Iterator[Metric]:
        tiers, names = self._prompts.tiers, list(self._desks)
        sizes = {name: [tiers.bytes_by_tier(h) for h in tiers.held(name)] for name in names}
        yield _by_tier(
            GaugeMetricFamily,
            "prompt_caches",
            "Caches of registered prompts that lie in a tier; each lies on the disk too.",
            {n: {t: sum(s[t] > 0 for s in sizes[n]) for t in TIERS} for n in names},
        )
        yield _by_tier(
            GaugeMetricFamily,
            "prompt_cache_bytes",
            "Bytes that these take there; on the device whole blocks.",
            {n: {t: sum(s[t] for s in sizes[n]) for t in TIERS} for n in names},
        )
        yield _by_tier(
            CounterMetricFamily,
            "prompt_cache_loads",
            "Caches that came back to the device for a request, by the tier they came from.",
            {n: tiers.num_loads(n) for n in names},
        )
        yield _counter(
            "prompt_cache_demotions",
            "Caches that left the device to make room.",
            ((n, tiers.num_demotions(n)) for n in names),
        )


def _gauges(stats: Mapping[str, EngineStats]) -> Iterator[Metric]:
    yield _gauge(
        "num_requests_running",
        "Sequences that the engine computes.",
        ((name, s.num_running) for name, s in stats.items()),
    )
    yield _gauge(
        "num_requests_waiting",
        "Sequences that wait for their turn.",
        ((name, s.num_waiting) for name, s in stats.items()),
    )
    yield _gauge(
        "kv_cache_usage_perc",
        "Share of the key/value cache's blocks in use, 0 to 1.",
        ((name, s.kv_cache_usage) for name, s in stats.items()),
    )
    yield _gauge(
        "kv_cache_blocks_used",
        "Blocks that sequences, compressions and registered prompts hold.",
        ((name, s.num_blocks - s.num_free_blocks) for name, s in stats.items()),
    )
    yield _gauge(
        "kv_cache_blocks_pinned",
        "Of these, the ones of registered prompts.",
        ((name, s.num_pinned_blocks) for name, s in stats.items()),
    )


def _engine_totals(stats: Mapping[str, EngineStats]) -> Iterator[Metric]:
    yield _counter(
        "num_preemptions",
        "Sequences that gave up their blocks, to be computed again.",
        ((name, s.num_preemptions) for name, s in stats.items()),
    )
    yield _counter(
        "prefix_cache_queries",
        "Tokens looked up in the prefix cache.",
        ((name, s.prefix_cache_queries) for name, s in stats.items()),
    )
    yield _counter(
        "prefix_cache_hits",
        "Tokens found there.",
        ((name, s.prefix_cache_hits) for name, s in stats.items()),
    )
    yield _counter(
        "gist_tokens_saved",
        "Prompt tokens less the slots that stood for them, over all sequences with a gist.",
        ((name, s.gist_tokens_saved) for name, s in stats.items()),
    )


def _answer_totals(desks: Mapping[str, ModelDesk]) -> Iterator[Metric]:
    meters = {name: desk.meter for name, desk in desks.items()}
    yield _counter(
        "prompt_tokens",
        "Tokens of prompts, uncompressed.",
        ((name, m.prompt_tokens) for name, m in meters.items()),
    )
    yield _counter(
        "prompt_tokens_cached",
        "Of these, the ones that were not computed again.",
        ((name, m.prompt_tokens_cached) for name, m in meters.items()),
    )
    yield _counter(
        "generation_tokens",
        "Tokens of answers.",
        ((name, m.generation_tokens) for name, m in meters.items()),
    )
    ended = CounterMetricFamily(
        "gistserve:request_success",
        "Choices that have ended, by the reason.",
        labels=["model_name", "finished_reason"],
    )
    for name, meter in meters.items():
        for reason, count in meter.finished.items():
            ended.add_metric([name, reason], count)
    yield ended


def _by_tier(
    family: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    meaning: str,
    values: Mapping[str, Mapping[Tier, float]],
) -> Metric:
    made = family(f"gistserve:{name}", meaning, labels=["model_name", "tier"])
    for model_name, by_tier in values.items():
        for tier, value in by_tier.items():
            made.add_metric([model_name, tier], value)
    return made


def _gauge(name: str, meaning: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(f"gistserve:{name}", meaning, labels=["model_name"])
    for model_name, value in values:
        family.add_metric([model_name], value)
    return family


def _counter(name: str, meaning: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = CounterMetricFamily(f"gistserve:{name}", meaning, labels=["model_name"])
    for model_name, value in values:
        family.add_metric([model_name], value)
    return family
