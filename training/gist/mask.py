"""Which tokens see which in the single pass over prompt, gist tokens and turn."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

Condition = Literal["gist", "positive", "negative"]

BLOCK = 128
"""Rows and columns of the blocks that FlexAttention computes or leaves out."""


@dataclass(frozen=True)
class HiddenSpan:
    """The causal mask of R rows, less a span of columns that the later queries do not see.

    Queries from `first_query` [R] on lose the columns `start` <= c < `stop` [R] (all int64).
    """

    first_query: Tensor
    start: Tensor
    stop: Tensor

    @classmethod
    def of(
        cls, prompt_lengths: Tensor, gist_tokens: int, sink_tokens: int, condition: Condition
    ) -> "HiddenSpan":
        """What `condition` hides from the turns behind prompts of `prompt_lengths` [R]."""
        turn = prompt_lengths + gist_tokens
        start = torch.zeros_like(prompt_lengths)
        if condition == "gist":
            return cls(turn, start + sink_tokens, prompt_lengths)
        return cls(turn, start, turn if condition == "negative" else start)

    def sees(self, row: Tensor, query: Tensor, column: Tensor) -> Tensor:
        """Whether each query may attend to each column; the indices broadcast."""
        hidden = (column >= self.start[row]) & (column < self.stop[row])
        return (column <= query) & ~(hidden & (query >= self.first_query[row]))


def gist_mask(
    prompt_lengths: Tensor,
    gist_tokens: int,
    sink_tokens: int,
    total: int,
    condition: Condition = "gist",
) -> Tensor:
    """Which columns each row may attend to: bool [R, total, total], True where it may.

    Row layout: prompt_lengths[r] prompt tokens, `gist_tokens` gists, then the turn. The first
    `sink_tokens` columns stay visible to the turn in condition "gist" (0 in the paper).
    """
    span = HiddenSpan.of(prompt_lengths, gist_tokens, sink_tokens, condition)
    rows = torch.arange(len(prompt_lengths), device=prompt_lengths.device)
    index = torch.arange(total, device=prompt_lengths.device)
    return span.sees(rows[:, None, None], index[:, None], index)


def gist_block_mask(
    prompt_lengths: Tensor,
    gist_tokens: int,
    sink_tokens: int,
    total: int,
    condition: Condition = "gist",
) -> BlockMask:
    """`gist_mask` for FlexAttention (Dong et al. 2024, arXiv 2412.05496), one for all heads.

    Rows and columns are filled up to a multiple of `BLOCK` with a causal tail, which no real row
    sees; and to two blocks at least, since torch.compile takes a size of one for a constant. The
    blocks are worked out from the lengths: the mask itself is never laid out in memory.
    """
    span = HiddenSpan.of(prompt_lengths, gist_tokens, sink_tokens, condition)
    padded = max(2, -(-total // BLOCK)) * BLOCK
    some, every = _visible_blocks(span, padded // BLOCK)
    partial, whole = _ordered(some & ~every), _ordered(every)

    def mask_mod(row: Tensor, head: Tensor, query: Tensor, column: Tensor) -> Tensor:
        return span.sees(row, query, column)

    return BlockMask.from_kv_blocks(
        *partial, *whole, BLOCK_SIZE=BLOCK, mask_mod=mask_mod, seq_lengths=(padded, padded)
    )


def _visible_blocks(span: HiddenSpan, blocks: int) -> tuple[Tensor, Tensor]:
    """[R, 1, blocks, blocks]: where some pair, and where every pair of a block is visible."""
    first = torch.arange(blocks, device=span.stop.device) * BLOCK
    last = first + BLOCK - 1
    first_query, last_query = first[:, None], last[:, None]
    behind, start, stop = (
        bound[:, None, None, None] for bound in (span.first_query, span.start, span.stop)
    )
    touched = torch.maximum(first, start) < torch.minimum(last + 1, stop)
    every = (last <= first_query) & ~(touched & (last_query >= behind))
    # Of each kind of query the last one of the block sees most.
    before = (first_query < behind) & (first <= torch.minimum(last_query, behind - 1))
    lowest = torch.where((first >= start) & (first < stop), stop, first)
    after = (last_query >= behind) & (lowest <= torch.minimum(last, last_query))
    return before | after, every


def _ordered(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """How many columns each row of a bool tensor has, and their indices first (both int32)."""
    order = torch.argsort(chosen.int(), dim=-1, descending=True, stable=True)
    return chosen.sum(-1, dtype=torch.int32), order.int()
