"""How often each token occurred in a request, for the three penalties."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .sequence import Sequence
from .transfer import upload


class TokenCounts:
    """Counts for the P sequences of a batch that have penalties."""

    def __init__(
        self, rows: list[int], sequences: list[Sequence], vocab_size: int, device: torch.device
    ) -> None:
        params = [s.request.sampling for s in sequences]
        pinned = [list(s.request.pinned_token_ids) for s in sequences]
        parts = [
            np.array(before + s.token_ids, dtype=np.int64)
            for before, s in zip(pinned, sequences, strict=True)
        ]
        lengths = [len(part) for part in parts]
        tokens = np.concatenate(parts)
        is_output = np.concatenate(
            [
                np.arange(n) >= len(before) + s.num_prompt_tokens
                for n, before, s in zip(lengths, pinned, sequences, strict=True)
            ]
        )
        owners = np.repeat(np.arange(len(rows)), lengths)
        penalties = np.array(
            [[p.repetition_penalty, p.frequency_penalty, p.presence_penalty] for p in params],
            dtype=np.float32,
        )
        self._rows, self._range, owner, token, output, penalty = upload(
            (
                np.array(rows),
                np.arange(len(rows)),
                owners,
                tokens,
                is_output.astype(np.float32),
                penalties,
            ),
            device,
        )
        self._repetition, self._frequency, self._presence = penalty.split(1, dim=1)
        self._output = torch.zeros(len(rows), vocab_size, device=device)
        self._seen = torch.zeros(len(rows), vocab_size, dtype=torch.bool, device=device)
        self._seen[owner, token] = True
        self._output.index_put_((owner, token), output, accumulate=True)

    @classmethod
    def build(
        cls, sequences: list[Sequence], vocab_size: int, device: torch.device
    ) -> TokenCounts | None:
        """Counts of those among [R] sequences that have penalties; ``None`` if none has."""
        rows = [i for i, s in enumerate(sequences) if s.request.sampling.has_penalties]
        if not rows:
            return None
        return cls(rows, [sequences[row] for row in rows], vocab_size, device)

    def penalize(self, logits: Tensor) -> None:
        """Applies the penalties in place to logits [R, V] (float32).

        Repetition divides positive logits and multiplies negative ones (CTRL, arXiv 1909.05858);
        frequency and presence are subtracted for output tokens, as OpenAI documents them.
        """
        chosen = logits[self._rows]
        repeated = torch.where(chosen > 0, chosen / self._repetition, chosen * self._repetition)
        chosen = torch.where(self._seen, repeated, chosen)
        chosen -= self._frequency * self._output
        chosen -= self._presence * (self._output > 0)
        logits[self._rows] = chosen

    def add(self, token_ids: Tensor) -> None:
        """Counts the tokens [R] that the batch drew; invalid ones are harmless, as they end it."""
        drawn = token_ids[self._rows].clamp(min=0)
        self._output[self._range, drawn] += 1
        self._seen[self._range, drawn] = True
