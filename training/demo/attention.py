"""Attention for policy batches: many turns read one policy's keys and values, never copied.

Plain matrix products over one shared prefix: on a CPU a good deal faster, forward and backward,
than masked attention over a copy of the prefix for each turn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

NAME = "gistserve_policy_turns"


@dataclass
class SharedPrefix:
    """Keys and values of B policies by layer, written by the policy pass, read by the turn pass.

    keys, values: layer -> [B, H, P, D]; bias [B, 1, 1, P]: 0 where a policy has a token, else -inf.
    Layers under ``hidden_below`` do not see the prefix in the turn pass.
    """

    bias: Tensor
    hidden_below: int = 0
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)


def policy_turn_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    prefix: SharedPrefix,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention; in the turn pass over the shared prefix as well.

    query, key, value: [R, H, T, D] with R = B policies in the policy pass (which stores its keys
    and values in ``prefix``), R = B * N turns in the turn pass. Returns [R, T, H, D].
    """
    group = module.num_key_value_groups
    if group > 1:
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    query = query * scaling
    own = query @ key.transpose(-1, -2) + _causal_bias(query.shape[2], query.dtype)
    layer = module.layer_idx
    if layer not in prefix.keys:
        prefix.keys[layer], prefix.values[layer] = key, value
        weights = own.softmax(-1, dtype=own.dtype)
        return (weights @ value).transpose(1, 2), None
    if layer < prefix.hidden_below:
        return (own.softmax(-1, dtype=own.dtype) @ value).transpose(1, 2), None
    shared_keys, shared_values = prefix.keys[layer], prefix.values[layer]
    rows, length = query.shape[0], query.shape[2]
    policies, width = shared_keys.shape[0], shared_keys.shape[2]
    stacked = _stack_turns(query, policies)
    shared = (stacked @ shared_keys.transpose(-1, -2) + prefix.bias).to(query.dtype)
    shared = _split_turns(shared, rows, length)
    weights = torch.cat([shared, own], -1).softmax(-1, dtype=query.dtype)
    from_prefix = _stack_turns(weights[..., :width], policies) @ shared_values
    out = _split_turns(from_prefix, rows, length) + weights[..., width:] @ value
    return out.transpose(1, 2), None


def _causal_bias(length: int, dtype: torch.dtype) -> Tensor:
    return torch.full((length, length), float("-inf"), dtype=dtype).triu(1)


def _stack_turns(x: Tensor, policies: int) -> Tensor:
    """[B * N, H, T, D] -> [B, H, N * T, D]."""
    rows, heads, length, dim = x.shape
    turns = rows // policies
    return (
        x.view(policies, turns, heads, length, dim)
        .transpose(1, 2)
        .reshape(policies, heads, turns * length, dim)
    )


def _split_turns(x: Tensor, rows: int, length: int) -> Tensor:
    """[B, H, N * T, D] -> [B * N, H, T, D]."""
    policies, heads, _, dim = x.shape
    turns = rows // policies
    return (
        x.view(policies, heads, turns, length, dim)
        .transpose(1, 2)
        .reshape(rows, heads, length, dim)
    )


AttentionInterface.register(NAME, policy_turn_attention)
