"""One request as its client saw it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Sample:
    """Times in seconds.

    Attributes:
        sent_at: when the request was sent, from the start of the run.
        late: how long after it was due (open loop).
        wanted_tokens: length of the answer that was asked for.
        ttft: until the first chunk with text.
        itl: between successive chunks with text; a chunk may carry several tokens.
        e2el: until the last chunk of the answer.
        prompt_tokens, cached_tokens, output_tokens: the server's usage; None where it tells none.
        gist_tokens: cache slots that stood for a compressed prompt (gistserve only).
        error: why the request failed; None where it did not.
    """

    sent_at: float
    wanted_tokens: int
    late: float = 0.0
    ttft: float | None = None
    itl: list[float] = field(default_factory=list)
    e2el: float | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    gist_tokens: int | None = None
    output_tokens: int | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def tpot(self) -> float | None:
        """(E2EL - TTFT) / (output tokens - 1); None for a single token, or where none is known."""
        if self.ttft is None or self.e2el is None or (self.output_tokens or 0) < 2:
            return None
        assert self.output_tokens is not None
        return (self.e2el - self.ttft) / (self.output_tokens - 1)
