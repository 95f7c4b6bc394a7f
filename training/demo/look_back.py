"""A start for the first layer: its heads look back by a fixed number of tokens.

Looking something up in a prompt takes two heads in a row: one that tells a token what stands
shortly before it, and one that finds the token so told. Neither gains anything without the other,
so from a random start both stay unlearned for thousands of steps. With the first of them given, the
second is learned within a few hundred.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

CONSTANT = 0
"""The embedding component that starts as 1 for every token, so that heads need not read others."""


@torch.no_grad()
def look_back(
    model: Qwen3ForCausalLM, *, gain: float = 2.0, noise: float = 0.2, slowest: float = 0.05
) -> None:
    """Let head h of the first layer start with its attention on the token h + 1 places back.

    A query is the sum of unit rotary pairs that turn by at least ``slowest`` radians a token, a
    key the same turned forward by h + 1 tokens, so their product peaks at that distance. ``gain``
    is where the query and key norms of the layer start (it sharpens the peak), ``noise`` scales
    what the projections read of the other components.
    """
    config = model.config
    attention = model.model.layers[0].self_attn
    dim = config.head_dim
    base = config.rope_parameters["rope_theta"]
    turn = base ** (-torch.arange(0, dim, 2) / dim)
    pairs = (turn >= slowest).float()
    model.model.embed_tokens.weight[:, CONSTANT] = 1.0
    model.lm_head.weight[:, CONSTANT] = 0.0
    query, key = attention.q_proj.weight.mul_(noise), attention.k_proj.weight.mul_(noise)
    for head in range(config.num_attention_heads):
        rows = slice(head * dim, (head + 1) * dim)
        query[rows, CONSTANT] = _rotary(pairs, turn, 0)
        key[rows, CONSTANT] = _rotary(pairs, turn, head + 1)
    attention.q_norm.weight.fill_(gain)
    attention.k_norm.weight.fill_(gain)


def _rotary(pairs: Tensor, turn: Tensor, places: int) -> Tensor:
    """The vector of rotary pairs turned forward by a number of places, in half-split layout."""
    return torch.cat([pairs * torch.cos(places * turn), pairs * torch.sin(places * turn)])
