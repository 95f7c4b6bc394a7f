"""Figures of one run, from its samples; the terms are those of `vllm bench serve`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from .percentiles import summary
from .sample import Sample
from .slo import Slo


def figures(samples: Sequence[Sample], duration: float, slo: Slo | None) -> dict[str, Any]:
    """Throughput per second of `duration`, tokens as usage told them, latencies in milliseconds.

    Failed requests count in `failed` and `errors` alone: neither their tokens nor their times are
    in anything else, and no objective is met by them. Figures of tokens are None where a server
    tells no usage.
    """
    done = [sample for sample in samples if sample.ok]
    output_tokens = _total(sample.output_tokens for sample in done)
    prompt_tokens = _total(sample.prompt_tokens for sample in done)
    return {
        "requests": len(samples),
        "failed": len(samples) - len(done),
        "errors": dict(Counter(sample.error for sample in samples if not sample.ok).most_common()),
        "duration_s": round(duration, 4),
        "mean_concurrency": sum(sample.e2el or 0.0 for sample in done) / duration,
        "request_throughput": len(done) / duration,
        "output_throughput": _rate(output_tokens, duration),
        "total_token_throughput": _rate(_total([prompt_tokens, output_tokens]), duration),
        "goodput": None if slo is None else sum(map(slo.is_met, samples)) / duration,
        "prompt_tokens": prompt_tokens,
        "cached_tokens": _total(sample.cached_tokens for sample in done),
        "output_tokens": output_tokens,
        "wanted_tokens": sum(sample.wanted_tokens for sample in done),
        "answers_of_other_length": sum(
            sample.output_tokens not in (None, sample.wanted_tokens) for sample in done
        ),
        "tokens_per_chunk": _tokens_per_chunk(done),
        "ttft_ms": summary([s.ttft for s in done if s.ttft is not None]),
        "tpot_ms": summary([s.tpot for s in done if s.tpot is not None]),
        "itl_ms": summary([gap for s in done for gap in s.itl]),
        "e2el_ms": summary([s.e2el for s in done if s.e2el is not None]),
        "late_ms": summary([s.late for s in samples]),
    }


def raw(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    """The samples column by column; times in milliseconds."""

    def times(name: str) -> list[float | None]:
        return [_ms(getattr(sample, name)) for sample in samples]

    return {
        "sent_at_ms": times("sent_at"),
        "late_ms": times("late"),
        "ttft_ms": times("ttft"),
        "e2el_ms": times("e2el"),
        "prompt_tokens": [sample.prompt_tokens for sample in samples],
        "cached_tokens": [sample.cached_tokens for sample in samples],
        "output_tokens": [sample.output_tokens for sample in samples],
        "wanted_tokens": [sample.wanted_tokens for sample in samples],
        "error": [sample.error for sample in samples],
        "itl_ms": [[_ms(gap) for gap in sample.itl] for sample in samples],
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 3)


def _total(counts: Iterable[int | None]) -> int | None:
    """The sum, or None where one of the counts, or every one, is missing."""
    all_counts = list(counts)
    known = [count for count in all_counts if count is not None]
    return sum(known) if known and len(known) == len(all_counts) else None


def _rate(count: int | None, duration: float) -> float | None:
    return None if count is None else count / duration


def _tokens_per_chunk(done: Sequence[Sample]) -> float | None:
    """Above 1 where several tokens come in one chunk; then ITL is the time between chunks."""
    tokens = _total(sample.output_tokens for sample in done)
    chunks = sum(len(sample.itl) + 1 for sample in done)
    return None if tokens is None or not chunks else tokens / chunks
