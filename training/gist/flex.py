"""FlexAttention under a transformers model: what a block mask drops is not computed.

Dong et al. 2024 (arXiv 2412.05496). transformers has an implementation of the name too; ours
differs in being compiled once for all lengths, and in heeding autocast.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention
from transformers import AttentionInterface, PreTrainedModel

from .mask import BLOCK, gist_block_mask

ATTENTION_NAME = "gistserve_flex"


@contextmanager
def flex_attention_in(model: PreTrainedModel) -> Iterator[None]:
    """Let the model attend by FlexAttention; its attention mask must then be a BlockMask."""
    before = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def flex_problem(model: PreTrainedModel) -> str | None:
    """Why the model cannot be trained with FlexAttention on its device, or None where it can.

    Tries it, forward and backward on a few tokens: head sizes, attention dropout and the compiler
    all have a say. No parameter's gradient and no random state is touched.
    """
    if not (model._supports_flex_attn and model._can_set_attn_implementation()):
        return f"{type(model).__name__} does not support it"
    training = model.training
    try:
        with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
            _try(model.train())
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    finally:
        model.train(training)
    return None


def _try(model: PreTrainedModel) -> None:
    rows, total = 3, 2 * BLOCK
    width = model.get_input_embeddings().weight.shape[1]
    embeds = torch.zeros(rows, total, width, device=model.device, dtype=model.dtype)
    lengths = torch.full((rows,), BLOCK, device=model.device)
    positions = torch.arange(total, device=model.device).expand(rows, -1)
    with torch.enable_grad(), flex_attention_in(model):
        states = model.base_model(
            inputs_embeds=embeds.requires_grad_(),
            attention_mask=gist_block_mask(lengths, 1, 0, total),
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        torch.autograd.grad(states.float().sum(), embeds)


def flex_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: BlockMask,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: query [B, Hq, T, D] to output [B, T, Hq, Dv].

    T may be less than the mask's length, which fills up whole blocks. ValueError for a dropout.
    """
    if dropout:
        raise ValueError(
            f"FlexAttention has no dropout, but the model asks for {dropout}: set its attention "
            "dropout to 0, or attn_implementation: sdpa"
        )
    tokens, filled = query.shape[2], attention_mask.shape[-1]
    dtype = _compute_dtype(value)
    query, key, value = (
        nn.functional.pad(states.to(dtype), (0, 0, 0, filled - tokens))
        for states in (query, key, value)
    )
    output = _attention_on(query.device.type)(
        query,
        key,
        value,
        score_mod=None if softcap is None else _softcap(softcap),
        block_mask=attention_mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
        return_aux=None if s_aux is None else AuxRequest(lse=True),
    )
    if s_aux is not None:  # exp(sink) joins the softmax's denominator (gpt-oss, 2508.10925)
        output, aux = output
        output = output * torch.sigmoid(aux.lse - s_aux[:, None])[..., None].to(dtype)
    return output[:, :, :tokens].transpose(1, 2).contiguous(), None


def _attention_on(device_type: str) -> Callable[..., Any]:
    if device_type == "cpu":
        return flex_attention
    return _compiled()


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=True)


def _compute_dtype(value: Tensor) -> torch.dtype:
    """Autocast leaves rotated queries and keys in float32, beside values in its own dtype."""
    if torch.is_autocast_enabled(value.device.type):
        return torch.get_autocast_dtype(value.device.type)
    return value.dtype


def _softcap(bound: float) -> Callable[..., Tensor]:
    def score_mod(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return bound * torch.tanh(score / bound)

    return score_mod


AttentionInterface.register(ATTENTION_NAME, flex_attention_forward)
