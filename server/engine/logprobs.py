"""Log-probabilities of the model's unmodified distribution, as OpenAI and vLLM report them."""

from __future__ import annotations

import torch
from torch import Tensor

from .request import TokenLogprob


def token_logprobs(logits: Tensor, token_ids: list[int], num_top: list[int]) -> list[TokenLogprob]:
    """Log-probability of one token a row, with the row's most likely tokens.

    Args:
        logits: [R, V].
        token_ids: [R].
        num_top: [R] how many alternatives to report; 0 for none.
    """
    logprobs = logits.float().log_softmax(dim=-1)
    index = torch.tensor(token_ids, device=logits.device)
    chosen = logprobs.gather(1, index[:, None])[:, 0].tolist()
    most = min(max(num_top, default=0), logits.shape[-1])
    if not most:
        return [TokenLogprob(t, p) for t, p in zip(token_ids, chosen, strict=True)]
    best = logprobs.topk(most, dim=-1)
    columns = zip(
        token_ids, chosen, best.indices.tolist(), best.values.tolist(), num_top, strict=True
    )
    return [
        TokenLogprob(token, logprob, tuple(zip(ids[:top], values[:top], strict=True)))
        for token, logprob, ids, values, top in columns
    ]
