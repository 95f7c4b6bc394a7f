"""How one request's tokens are drawn, checked where the values enter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_LOGPROBS = 20
"""Most alternatives a token may be reported with (OpenAI's limit for chat)."""

_LARGEST_TOP_K = 2**31 - 1
_SEED_LOW, _SEED_HIGH = -(2**63), 2**64 - 1
_TEMPERATURE_FLOOR = 1e-5


class SamplingParamsError(ValueError):
    """A sampling parameter has a value that cannot be used. ``param`` names it."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param} {message}")
        self.param = param


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of one request, in OpenAI's and vLLM's meaning.

    Raises:
        SamplingParamsError: (a ``ValueError``) naming the first parameter that is out of range.
    """

    max_tokens: int | None = None
    """Most tokens to generate; ``None`` means up to the model's context length. 0 computes the
    prompt only (for ``prompt_logprobs``)."""
    temperature: float = 1.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    top_k: int = 0
    """Keep the k most likely tokens; 0 or -1 keeps all."""
    min_p: float = 0.0
    """Drop tokens less likely than ``min_p`` times the most likely one."""
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the request besides the model's own end tokens; the token is reported."""
    ignore_eos: bool = False
    """Go on after the model's own end tokens (``stop_token_ids`` still stop)."""
    min_tokens: int = 0
    """No end or stop token is drawn before so many tokens were generated."""
    logprobs: int | None = None
    """Report each generated token's log-probability with so many alternatives (0: none)."""
    prompt_logprobs: int | None = None
    """The same for the request's own prompt tokens; such a request uses no prefix hit."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    """Counts prompt and output tokens, and ``Request.pinned_token_ids``."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id → number added to its logit."""

    def __post_init__(self) -> None:
        _check_int("max_tokens", self.max_tokens, 0, optional=True)
        _check_number("temperature", self.temperature, 0.0, math.inf)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0.0:
            raise SamplingParamsError("top_p", "must be in (0, 1], got 0")
        _check_int("top_k", self.top_k, -1, _LARGEST_TOP_K)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_int("seed", self.seed, _SEED_LOW, _SEED_HIGH, optional=True)
        _check_token_ids("stop_token_ids", self.stop_token_ids)
        _check_int("min_tokens", self.min_tokens, 0)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise SamplingParamsError(
                "min_tokens",
                f"exceeds max_tokens: {self.min_tokens} > {self.max_tokens}",
            )
        _check_int("logprobs", self.logprobs, 0, MAX_LOGPROBS, optional=True)
        _check_int("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS, optional=True)
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        # Beyond, logits of half the width overflow or vanish.
        _check_number("repetition_penalty", self.repetition_penalty, 1e-3, 1e3)
        _check_token_ids("logit_bias", self.logit_bias)
        for token_id, bias in self.logit_bias.items():
            _check_number(f"logit_bias[{token_id}]", bias, -100.0, 100.0, param="logit_bias")

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is taken (a vanishing temperature divides to infinity)."""
        return self.temperature < _TEMPERATURE_FLOOR

    @property
    def has_penalties(self) -> bool:
        """Whether the counts of earlier tokens change the logits."""
        return (
            self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or self.repetition_penalty != 1.0
        )


def _check_int(
    name: str,
    value: object,
    low: int,
    high: int | None = None,
    *,
    optional: bool = False,
) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise SamplingParamsError(name, f"must be an integer, got {value!r}")
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise SamplingParamsError(name, f"must be {bounds}, got {value}")


def _check_number(
    name: str, value: object, low: float, high: float, *, param: str | None = None
) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise SamplingParamsError(param or name, f"must be a number, got {value!r}")
    if not math.isfinite(value) or value < low or value > high:
        bounds = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise SamplingParamsError(param or name, f"must be {bounds}, got {value}")


def _check_token_ids(name: str, token_ids: object) -> None:
    if not isinstance(token_ids, tuple | Mapping):
        raise SamplingParamsError(name, f"has the wrong type {type(token_ids).__name__}")
    for token_id in token_ids:
        if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
            raise SamplingParamsError(name, f"must hold token ids, got {token_id!r}")
