"""What an operator may set about the HTTP interface."""

from dataclasses import dataclass, field

from .prompt_memory import PromptMemory

MIB = 1024 * 1024
# Request bodies of the largest size that may be held at a time.
_BODIES = 16


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of the HTTP interface; engines and models have their own.

    api_keys: keys that clients may present as ``Authorization: Bearer``; none means open.
    cors_origins: origins that browsers may call from (``"*"`` for all); none means no CORS.
    max_queue: requests that may wait for an engine beyond the ones it runs; more get 429.
    max_queue_tokens: prompt tokens that may wait to be computed; more get 429. None for no limit.
    queue_timeout: seconds that a request may wait for its turn; then it gets 429.
    request_timeout: seconds that a request may take; then it gets 504, a stream that error.
    step_timeout: seconds that one step of an engine may take; then /health is 503 until it ends.
        None for 300 on a GPU and 1800 on a CPU.
    max_body_bytes: largest request body read, in bytes; more gets 413.
    max_total_body_bytes: what large request bodies may take together, in bytes; more get 429. None
        for 16 of the largest.
    retry_after_seconds: what a 429 tells the client to wait until requests have ended, whose rate
        then tells it.
    prompt_memory: what the caches of registered prompts may take on devices and in main memory.
    sweep_seconds: how often expired prompts are removed and usage counters written.
    threaded_text_chars: texts at least this long are tokenised in a worker thread.
    """

    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_queue: int = 256
    max_queue_tokens: int | None = None
    queue_timeout: float | None = None
    request_timeout: float | None = None
    step_timeout: float | None = None
    max_body_bytes: int = 16 * MIB
    max_total_body_bytes: int | None = None
    retry_after_seconds: int = 1
    prompt_memory: PromptMemory = field(default_factory=PromptMemory)
    sweep_seconds: float = 5.0
    threaded_text_chars: int = 2_000

    def __post_init__(self) -> None:
        if any(not key for key in self.api_keys):
            raise ValueError("api_keys: an API key must not be empty")
        if self.max_queue < 0:
            raise ValueError(f"max_queue must be 0 or more, got {self.max_queue}")
        for name in ("max_queue_tokens", "queue_timeout", "request_timeout", "step_timeout"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.max_body_bytes < 1:
            raise ValueError(f"max_body_bytes must be positive, got {self.max_body_bytes}")
        if self.total_body_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_total_body_bytes must be at least max_body_bytes, {self.max_body_bytes}, got "
                f"{self.total_body_bytes}"
            )
        if self.retry_after_seconds < 1:
            raise ValueError(
                f"retry_after_seconds must be 1 or more, got {self.retry_after_seconds}"
            )
        if self.sweep_seconds <= 0:
            raise ValueError(f"sweep_seconds must be positive, got {self.sweep_seconds}")

    @property
    def total_body_bytes(self) -> int:
        """What large request bodies may take together."""
        total = self.max_total_body_bytes
        return _BODIES * self.max_body_bytes if total is None else total
