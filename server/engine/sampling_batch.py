"""The sampling parameters of one set of sequences as tensors, kept while the set stays."""

from __future__ import annotations

import math
from collections.abc import Sequence as SequenceOf
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from .logprobs import logprob_columns, report_logprobs
from .request import TokenLogprob
from .sampling_filter import SamplingFilter
from .sequence import Sequence
from .token_counts import TokenCounts
from .token_mask import TokenMask
from .transfer import Array, upload


class SamplingBatch:
    """What R sequences ask of their sampling.

    Args:
        sequences: [R].
        vocab_size: V.
        device: where the logits lie; nothing here waits for it.
    """

    def __init__(self, sequences: list[Sequence], vocab_size: int, device: torch.device) -> None:
        params = [s.request.sampling for s in sequences]
        self.sequences = list(sequences)
        random = [row for row, p in enumerate(params) if not p.is_greedy]
        logprob_rows = [row for row, p in enumerate(params) if p.logprobs is not None]
        bias = [(row, t, b) for row, p in enumerate(params) for t, b in p.logit_bias.items()]
        waiting = [
            (row, sequence, sorted(sequence.stop_token_ids))
            for row, sequence in enumerate(sequences)
            if params[row].min_tokens > sequence.num_output_tokens
            and sequence.stop_token_ids
            and sequence.constraint is None
        ]
        self.seeded = [i for i, row in enumerate(random) if params[row].seed is not None]
        """Which of the random rows have a generator of their own."""
        self.seeded_sequences = [sequences[random[i]] for i in self.seeded]
        self.num_random = len(random)
        self.mask = TokenMask.build(self.sequences, device)
        """Of the rows with a grammar."""
        self.takes_best = not (random or logprob_rows or bias or waiting) and not any(
            p.has_penalties for p in params
        )
        """Whether each row's most likely token is all that is wanted, by its grammar if it has
        one."""
        if self.takes_best:
            return
        bias_rows, bias_columns, bias_values = zip(*bias, strict=True) if bias else ((), (), ())
        placed = upload(
            (
                np.array(random, dtype=np.int64),
                np.array([params[row].temperature for row in random], dtype=np.float32)[:, None],
                np.array(logprob_rows, dtype=np.int64),
                np.array(bias_rows, dtype=np.int64),
                np.array(bias_columns, dtype=np.int64),
                np.array(bias_values, dtype=np.float32),
                np.array(list(chain(*(ids for *_, ids in waiting))), dtype=np.int64),
            ),
            device,
        )
        self.random_rows, self.temperatures, self._logprob_index, *self._bias, stop_ids = placed
        self.filter = SamplingFilter.build([params[row] for row in random], device)
        self.counts = TokenCounts.build(sequences, vocab_size, device)
        self._logprob_rows = logprob_rows
        self._num_top = [params[row].logprobs or 0 for row in logprob_rows]
        parts = stop_ids.split([len(ids) for *_, ids in waiting])
        self._waiting = [(row, s, part) for (row, s, _), part in zip(waiting, parts, strict=True)]

    def adjust(self, logits: Tensor) -> Tensor:
        """[R, V] logits after penalties, bias, minimum length and grammars; the argument if none
        apply."""
        rows, columns, values = self._bias
        if self.counts is None and not len(rows) and not self._waiting and self.mask is None:
            return logits
        logits = logits.clone()
        if self.counts is not None:
            self.counts.penalize(logits)
        if len(rows):
            logits.index_put_((rows, columns), values, accumulate=True)
        for row, sequence, stop_ids in self._waiting:
            if sequence.num_output_tokens < sequence.request.sampling.min_tokens:
                logits[row].index_fill_(0, stop_ids, -math.inf)
        if self.mask is not None:
            self.mask.apply(logits)
        return logits

    def logprob_columns(self, logits: Tensor, token_ids: Tensor) -> list[Tensor]:
        """What to report of the rows that want log-probabilities; empty if none does.

        Args:
            logits: [R, V] as the model made them.
            token_ids: int64 [R], drawn.
        """
        if not self._logprob_rows:
            return []
        chosen = token_ids[self._logprob_index].clamp(min=0)
        return logprob_columns(logits[self._logprob_index], chosen, max(self._num_top))

    def report(self, columns: SequenceOf[Array]) -> list[TokenLogprob | None]:
        """[R] log-probabilities where asked for, of ``logprob_columns`` once on the host."""
        reported: list[TokenLogprob | None] = [None] * len(self.sequences)
        if columns:
            found = report_logprobs(columns, self._num_top)
            for row, logprob in zip(self._logprob_rows, found, strict=True):
                reported[row] = logprob
        return reported
