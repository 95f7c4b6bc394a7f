"""What a caller asks of the engine, and what the engine answers step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .grammar import Grammar
from .pinned import PinnedCache
from .sampling_params import SamplingParams, SamplingParamsError

__all__ = [
    "FinishReason",
    "Request",
    "RequestOutput",
    "SamplingParams",
    "SamplingParamsError",
    "TokenLogprob",
]

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One generation request.

    Token i of the request lies at slot ``pinned.slots + i`` of its sequence and is computed at
    position ``pinned.next_position + i`` (both ``i`` without a pinned cache).

    Raises:
        ValueError: if ``request_id`` or ``token_ids`` is empty.
    """

    request_id: str
    token_ids: Sequence[int]
    """The prompt's tokens after the pinned cache; at least one."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    pinned: PinnedCache | None = None
    pinned_token_ids: Sequence[int] = ()
    """The tokens that the pinned cache stands for; ``repetition_penalty`` counts them."""
    grammar: Grammar | None = None
    """What the output must look like. The request ends where nothing can follow, even with
    ``ignore_eos``; ``min_tokens`` does not apply."""
    embed: bool = False
    """Generate nothing: compute the prompt for its last token's final hidden state alone. Such a
    request neither uses nor feeds the prefix cache."""

    def __post_init__(self) -> None:
        if not self.request_id:
            raise ValueError("request_id must not be empty")
        if len(self.token_ids) == 0:
            raise ValueError("token_ids must hold at least one token")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's log-probability (natural logarithm) under the model's unmodified distribution."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(token id, log-probability) of the most likely tokens, best first."""


@dataclass(slots=True)
class RequestOutput:
    """What one engine step added to a request; the last one carries ``finish_reason``.

    Token counts are logical: what the prompt would count uncompressed.
    """

    request_id: str
    new_token_ids: list[int]
    """One token a step; empty in an output that only ends the request. A token that stopped the
    request (end of text, stop token) is among them."""
    logprobs: list[TokenLogprob] | None = None
    """One entry a new token, if the request asked for them."""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """In the first output only: one entry for each of the request's own prompt tokens (not those
    behind a pinned cache). The first is ``None``: nothing was predicted before it."""
    embedding: NDArray[np.float32] | None = None
    """[hidden size] the last token's state behind the model's final norm, as it is; only where the
    request asked to ``embed``."""
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    """The token that ended the request, where ``finish_reason`` is "stop"."""
    num_prompt_tokens: int = 0
    """Logical tokens of the whole prompt, those behind a pinned cache included."""
    num_cached_tokens: int = 0
    """Of these, the ones not computed for this request: pinned, or found in the prefix cache."""
    num_output_tokens: int = 0
    """Tokens generated so far."""
    num_gist_slots: int = 0
    """Cache slots that stand for the pinned prompt, if it is pinned as a gist; else 0."""
    error: str | None = None
    """What went wrong, where ``finish_reason`` is "error"."""
