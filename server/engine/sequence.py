"""A request on its way through the engine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .block_pool import ROOT_HASH, hash_block
from .grammar import TokenConstraint
from .request import FinishReason, Request, TokenLogprob


class Sequence:
    """State of one request; only the engine's thread touches it.

    Indices of tokens count from the first token after a pinned cache; slots and positions are
    offset by the pinned cache's own.
    """

    __slots__ = (
        "block_hashes",
        "block_ids",
        "constraint",
        "embedding",
        "error",
        "finish_reason",
        "max_output_tokens",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_prompt_tokens",
        "num_registered_blocks",
        "position_offset",
        "prompt_logprobs",
        "request",
        "row",
        "slot_offset",
        "stop_token_id",
        "stop_token_ids",
        "token_ids",
        "uniforms",
    )

    def __init__(
        self,
        request: Request,
        max_output_tokens: int,
        eos_token_ids: frozenset[int] = frozenset(),
    ) -> None:
        pinned, sampling = request.pinned, request.sampling
        self.request = request
        self.slot_offset = pinned.slots if pinned else 0
        self.position_offset = pinned.next_position if pinned else 0
        self.token_ids = list(request.token_ids)
        """Prompt, then output."""
        self.num_prompt_tokens = len(self.token_ids)
        self.max_output_tokens = max_output_tokens
        ends = frozenset() if sampling.ignore_eos else eos_token_ids
        self.stop_token_ids = ends | frozenset(sampling.stop_token_ids)
        self.num_computed_tokens = 0
        """Tokens whose keys and values lie in the blocks; 0 again after a preemption."""
        self.num_cached_tokens: int | None = None
        """Prompt tokens found in the prefix cache when first admitted."""
        self.block_ids: list[int] = []
        """Blocks of all slots in order, a pinned cache's shared ones first."""
        self.block_hashes: list[bytes] = []
        """Hashes of full blocks, counted from the first block that is not wholly pinned."""
        self.num_registered_blocks = 0
        """How many of these the pool knows already."""
        self.row = -1
        """Row of the scheduler's block table while running."""
        self.prompt_logprobs: list[TokenLogprob | None] = []
        self.embedding: NDArray[np.float32] | None = None
        self.constraint: TokenConstraint | None = (
            request.grammar.begin() if request.grammar else None
        )
        """What may follow the output so far; a preemption leaves it as it is."""
        self.uniforms: Iterator[float] | None = None
        """The sampler's: random numbers of a request with a seed."""
        self.finish_reason: FinishReason | None = None
        self.stop_token_id: int | None = None
        self.error: str | None = None

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether the log-probabilities of the prompt's tokens are still to be reported."""
        wanted = self.request.sampling.prompt_logprobs is not None
        return wanted and len(self.token_ids) == self.num_prompt_tokens

    def num_full_blocks(self, num_tokens: int, block_size: int) -> int:
        """Blocks that the first ``num_tokens`` tokens fill, not counting the wholly pinned ones."""
        return (self.slot_offset + num_tokens) // block_size - self.slot_offset // block_size

    def block_hash(self, index: int, block_size: int) -> bytes:
        """Hash of the ``index``-th full block after the wholly pinned ones."""
        pinned = self.request.pinned
        hashes = self.block_hashes
        in_first = block_size - self.slot_offset % block_size
        while len(hashes) <= index:
            end = in_first + len(hashes) * block_size
            root = pinned.key if pinned else ROOT_HASH
            parent = hashes[-1] if hashes else root
            hashes.append(hash_block(parent, self.token_ids[max(0, end - block_size) : end]))
        return hashes[index]
