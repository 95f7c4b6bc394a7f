"""Log-probabilities of the model's unmodified distribution, as OpenAI and vLLM report them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .request import TokenLogprob
from .transfer import Array, download, upload


def token_logprobs(logits: Tensor, token_ids: list[int], num_top: list[int]) -> list[TokenLogprob]:
    """Log-probability of one token a row, with the row's most likely tokens.

    Waits for the device.

    Args:
        logits: [R, V].
        token_ids: [R].
        num_top: [R] how many alternatives to report; 0 for none.
    """
    (index,) = upload([np.array(token_ids, dtype=np.int64)], logits.device)
    columns = download(logprob_columns(logits, index, max(num_top, default=0)))
    return report_logprobs(columns, num_top)


def logprob_columns(logits: Tensor, token_ids: Tensor, num_top: int) -> list[Tensor]:
    """What is to be reported, still on the device: tokens [R], their log-probabilities [R] and,
    where ``num_top`` is not 0, so many most likely tokens [R, n] with theirs [R, n].

    Args:
        logits: [R, V].
        token_ids: int64 [R].
        num_top: most alternatives of a row.
    """
    logprobs = logits.float().log_softmax(dim=-1)
    columns = [token_ids, logprobs.gather(1, token_ids[:, None])[:, 0]]
    if num_top:
        best = logprobs.topk(min(num_top, logits.shape[-1]), dim=-1)
        columns += [best.indices, best.values]
    return columns


def report_logprobs(columns: Sequence[Array], num_top: list[int]) -> list[TokenLogprob]:
    """One entry a row of what ``logprob_columns`` found, with ``num_top`` [R] alternatives each."""
    token_ids, chosen, *best = (column.tolist() for column in columns)
    if not best:
        return [TokenLogprob(t, p) for t, p in zip(token_ids, chosen, strict=True)]
    rows = zip(token_ids, chosen, *best, num_top, strict=True)
    return [
        TokenLogprob(token, logprob, tuple(zip(ids[:top], values[:top], strict=True)))
        for token, logprob, ids, values, top in rows
    ]
