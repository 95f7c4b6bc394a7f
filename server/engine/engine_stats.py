"""What an engine tells about itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from .request import FinishReason


@dataclass(slots=True)
class EngineCounters:
    """Totals since the start; the engine's thread counts, others only read."""

    steps: int = 0
    prompt_tokens: int = 0
    prompt_tokens_cached: int = 0
    gist_tokens_saved: int = 0
    generation_tokens: int = 0
    finished: dict[FinishReason, int] = field(
        default_factory=lambda: {"stop": 0, "length": 0, "abort": 0, "error": 0}
    )


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot. Gauges first, then totals since the start; tokens of prompts are logical."""

    num_running: int
    num_waiting: int
    num_blocks: int
    num_free_blocks: int
    """Blocks that no request and no pin uses; those that hold a cached prefix are among them."""
    num_pinned_blocks: int
    num_pinned_caches: int
    num_steps: int
    num_preemptions: int
    prompt_tokens: int
    prompt_tokens_cached: int
    """Of these, the ones that were pinned or found in the prefix cache."""
    generation_tokens: int
    prefix_cache_queries: int
    """Tokens looked up in the prefix cache."""
    prefix_cache_hits: int
    """Tokens found there."""
    gist_tokens_saved: int
    """Prompt tokens less the slots that stood for them, over all requests with a gist."""
    finished: dict[FinishReason, int]

    @property
    def kv_cache_usage(self) -> float:
        """Share of the blocks that is in use, 0 to 1."""
        return 1.0 - self.num_free_blocks / self.num_blocks
