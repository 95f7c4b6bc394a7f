"""Takes embeddings out of a step: what the model makes of a prompt, before its head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from .scheduler_output import ScheduledSequence, SchedulerOutput
from .transfer import download, upload


class Pooler:
    """Last-token pooling: a prompt's embedding is its last token's state behind the final norm.

    Args:
        model: a causal LM, whose decoder ends with that norm.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._decoder = model.get_decoder()

    @contextmanager
    def pooling(self, output: SchedulerOutput) -> Iterator[None]:
        """Within the block the step is computed; behind it each sequence that wants an embedding,
        and whose prompt the step ends, has it: float32 [hidden size].

        The head does not run on these rows.
        """
        ended = [
            (share.sequence, row)
            for row, share in enumerate(output.sequences)
            if share.sequence.request.embed and _ends_prompt(share)
        ]
        if not ended:
            yield
            return
        sequences, rows = zip(*ended, strict=True)
        last_tokens = output.query_start_loc[1:].astype(np.int64)[list(rows)] - 1
        kept: list[Tensor] = []

        def keep(_module: Any, _arguments: Any, result: Any) -> None:
            states: Tensor = result[0].flatten(0, 1)
            (indices,) = upload([last_tokens], states.device)
            kept.append(states[indices].float())

        hook = self._decoder.register_forward_hook(keep)
        try:
            yield
        finally:
            hook.remove()
        (embeddings,) = download(kept)
        for sequence, embedding in zip(sequences, embeddings, strict=True):
            sequence.embedding = embedding


def _ends_prompt(share: ScheduledSequence) -> bool:
    return share.start + share.num_new_tokens == len(share.sequence.token_ids)
