"""A request on its way through the engine."""

from __future__ import annotations

from .request import FinishReason, Request, TokenLogprob


class Sequence:
    """State of one request; belongs to the scheduler, so only the engine's thread touches it.

    Indices of tokens count from the first token after a pinned cache; slots and positions are
    offset by the pinned cache's own.
    """

    __slots__ = (
        "block_hashes",
        "block_ids",
        "finish_reason",
        "max_output_tokens",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_prompt_tokens",
        "num_registered_blocks",
        "position_offset",
        "prompt_logprobs",
        "request",
        "slot_offset",
        "stop_token_id",
        "stop_token_ids",
        "token_ids",
    )

    def __init__(
        self, request: Request, max_output_tokens: int, stop_token_ids: frozenset[int]
    ) -> None:
        pinned = request.pinned
        self.request = request
        self.slot_offset = pinned.slots if pinned else 0
        self.position_offset = pinned.next_position if pinned else 0
        self.token_ids = list(request.token_ids)
        """Prompt, then output."""
        self.num_prompt_tokens = len(self.token_ids)
        self.max_output_tokens = max_output_tokens
        self.stop_token_ids = stop_token_ids
        self.num_computed_tokens = 0
        """Tokens whose keys and values lie in the blocks; 0 again after a preemption."""
        self.num_cached_tokens = 0
        """Prompt tokens found in the prefix cache when first admitted."""
        self.block_ids: list[int] = []
        """Blocks of all slots in order, a pinned cache's shared ones first."""
        self.block_hashes: list[bytes] = []
        """Hashes of full blocks, counted from the first block that is not wholly pinned."""
        self.num_registered_blocks = 0
        """How many of these the pool knows already."""
        self.prompt_logprobs: list[TokenLogprob | None] = []
        self.finish_reason: FinishReason | None = None
        self.stop_token_id: int | None = None

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens
