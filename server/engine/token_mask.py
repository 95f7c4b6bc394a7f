"""Keeps the rows of a batch that have a grammar to the tokens that it allows."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from .sequence import Sequence
from .transfer import upload


class TokenMask:
    """Masks of the C sequences of a batch that have a grammar."""

    def __init__(self, rows: list[int], sequences: list[Sequence], device: torch.device) -> None:
        self.rows = rows
        """[C] their places in the batch, ascending."""
        self._constraints = [s.constraint for s in sequences if s.constraint is not None]
        self._num_words = max(constraint.num_words for constraint in self._constraints)
        (self._index,) = upload([np.array(rows, dtype=np.int64)], device)
        self._shifts = torch.arange(8, dtype=torch.uint8, device=device)

    @classmethod
    def build(cls, sequences: list[Sequence], device: torch.device) -> TokenMask | None:
        """The mask of those among [R] sequences that have a grammar; ``None`` if none has."""
        rows = [i for i, s in enumerate(sequences) if s.constraint is not None]
        return cls(rows, [sequences[row] for row in rows], device) if rows else None

    def apply(self, logits: Tensor) -> None:
        """Sets logits [R, V] of tokens that may not follow to -inf, in place."""
        logits[self._index] = self.masked(logits)

    def masked(self, logits: Tensor) -> Tensor:
        """The C rows of logits [R, V], with -inf for tokens that may not follow."""
        chosen = logits[self._index]
        return chosen.masked_fill_(~self._allowed(logits.shape[-1], logits.device), -math.inf)

    def _allowed(self, vocab_size: int, device: torch.device) -> Tensor:
        """Bool [C, V]. The host finds it while the device still computes the logits."""
        words = np.zeros((len(self.rows), self._num_words), dtype=np.int32)
        for constraint, row in zip(self._constraints, words, strict=True):
            constraint.fill(row[: constraint.num_words])
        (placed,) = upload([words], device)
        # A word's bytes lie in the order of their bits, as on every machine that torch runs on.
        bits = (placed.view(torch.uint8)[:, :, None] >> self._shifts) & 1
        allowed = bits.flatten(1).bool()
        return pad(allowed, (0, max(0, vocab_size - allowed.shape[-1])))[:, :vocab_size]
