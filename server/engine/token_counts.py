"""How often each token occurred in a request, for the three penalties."""

from __future__ import annotations

import torch
from torch import Tensor

from .sequence import Sequence


class TokenCounts:
    """Counts for the P sequences of a batch that have penalties."""

    def __init__(
        self, rows: list[int], sequences: list[Sequence], vocab_size: int, device: torch.device
    ) -> None:
        params = [s.request.sampling for s in sequences]
        self._rows = rows
        self._row_index = torch.tensor(rows, device=device)
        self._range = torch.arange(len(rows), device=device)
        self._output = torch.zeros(len(rows), vocab_size, device=device)
        self._seen = torch.zeros(len(rows), vocab_size, dtype=torch.bool, device=device)
        for index, sequence in enumerate(sequences):
            tokens = torch.tensor(sequence.token_ids, device=device)
            self._seen[index, tokens] = True
            output = tokens[sequence.num_prompt_tokens :]
            self._output[index] = torch.bincount(output, minlength=vocab_size)
        self._repetition = torch.tensor([[p.repetition_penalty] for p in params], device=device)
        self._frequency = torch.tensor([[p.frequency_penalty] for p in params], device=device)
        self._presence = torch.tensor([[p.presence_penalty] for p in params], device=device)

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
        chosen = logits[self._row_index]
        repeated = torch.where(chosen > 0, chosen / self._repetition, chosen * self._repetition)
        chosen = torch.where(self._seen, repeated, chosen)
        chosen -= self._frequency * self._output
        chosen -= self._presence * (self._output > 0)
        logits[self._row_index] = chosen

    def add(self, token_ids: list[int]) -> None:
        """Counts the tokens [R] that the batch drew; invalid ones are harmless, as they end it."""
        drawn = torch.tensor([max(token_ids[row], 0) for row in self._rows])
        drawn = drawn.to(self._output.device)
        self._output[self._range, drawn] += 1
        self._seen[self._range, drawn] = True
