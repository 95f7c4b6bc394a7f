"""Counts and times the answers of one model, for Prometheus."""

import time

from prometheus_client import CollectorRegistry, Histogram

_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0),
)


class Latencies:
    """The histograms of one application, labelled by model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.first_token = _histogram(
            registry,
            "time_to_first_token_seconds",
            "From a request's arrival to the first token of any of its choices.",
        )
        self.inter_token = _histogram(
            registry, "inter_token_latency_seconds", "Between two tokens of one choice."
        )
        self.end_to_end = _histogram(
            registry,
            "e2e_request_latency_seconds",
            "From a request's arrival to the last token of its last choice.",
        )


def _histogram(registry: CollectorRegistry, name: str, meaning: str) -> Histogram:
    return Histogram(
        f"gistserve:{name}", meaning, ["model_name"], registry=registry, buckets=_SECONDS
    )


class ModelMeter:
    """Totals of one model since the start; used on the event loop only.

    Tokens are those of `usage`: a prompt with many choices counts once, and what the engine made
    beyond a stop string does not count.
    """

    def __init__(self, model_name: str, latencies: Latencies) -> None:
        self.name = model_name
        self.prompt_tokens = 0
        self.prompt_tokens_cached = 0
        self.generation_tokens = 0
        self.finished = dict.fromkeys(("stop", "length", "abort", "error"), 0)
        self.first_token = latencies.first_token.labels(model_name)
        self.inter_token = latencies.inter_token.labels(model_name)
        self.end_to_end = latencies.end_to_end.labels(model_name)


class RequestMeter:
    """Measures one request.

    Args:
        model: where its numbers are added.
        arrived: `time.perf_counter()` at its arrival.
    """

    def __init__(self, model: ModelMeter, arrived: float) -> None:
        self.model_name = model.name
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.gist_tokens = 0
        """Cache slots that stood for registered prompts."""
        self.completion_tokens = 0
        self.finish_reasons: dict[str, int] = {}
        """How many choices have ended for each reason."""
        self.first_token_at: float | None = None
        """`time.perf_counter()` at the first token of any choice."""
        self._model = model
        self._arrived = arrived
        self._last_token: dict[int, float] = {}

    def prompt(self, num_tokens: int, num_cached_tokens: int, num_gist_slots: int = 0) -> None:
        """One of its prompts was computed."""
        self.prompt_tokens += num_tokens
        self.cached_tokens += num_cached_tokens
        self.gist_tokens += num_gist_slots
        self._model.prompt_tokens += num_tokens
        self._model.prompt_tokens_cached += num_cached_tokens

    def token(self, choice: int) -> None:
        """A choice got a token."""
        now = time.perf_counter()
        self.completion_tokens += 1
        self._model.generation_tokens += 1
        previous = self._last_token.get(choice)
        if previous is not None:
            self._model.inter_token.observe(now - previous)
        elif self.first_token_at is None:
            self.first_token_at = now
            self._model.first_token.observe(now - self._arrived)
        self._last_token[choice] = now

    def finished(self, reason: str) -> None:
        """A choice has ended."""
        self.finish_reasons[reason] = self.finish_reasons.get(reason, 0) + 1
        self._model.finished[reason] += 1

    def answered(self) -> None:
        """All choices have ended by themselves."""
        self._model.end_to_end.observe(time.perf_counter() - self._arrived)
