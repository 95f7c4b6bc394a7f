"""Draws the next token of every sequence in one pass over the batch.

Order as in transformers: penalties, bias, minimum length, temperature, top-k, top-p, min-p. A token
is drawn by inverting the cumulative distribution (float64, vocabulary order) at one uniform number
a request, which comes from the request's own generator if it has a seed. Every operation works on
rows alone, so a request's tokens do not depend on what else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .logprobs import token_logprobs
from .request import SamplingParams, TokenLogprob
from .sampling_filter import SamplingFilter
from .scheduler import INVALID_TOKEN
from .sequence import Sequence
from .token_counts import TokenCounts


@dataclass(slots=True)
class SampledTokens:
    """What a step drew, one entry a sequence."""

    token_ids: list[int]
    """``INVALID_TOKEN`` where the logits are not finite."""
    logprobs: list[TokenLogprob | None]
    """Of the drawn tokens, under the unmodified distribution; ``None`` where not asked for."""


class Sampler:
    """Vectorised sampling.

    Args:
        seed: for the numbers of requests without a seed of their own.
    """

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._batch: _Batch | None = None

    def sample(self, logits: Tensor, sequences: list[Sequence]) -> SampledTokens:
        """Draws one token for each row.

        Args:
            logits: [R, V] of any floating type; not modified.
            sequences: [R] whose next token each row predicts.
        """
        batch = self._batch
        if batch is None or batch.sequences != sequences:
            batch = self._batch = _Batch(sequences, logits.shape[-1], logits.device)
        if batch.takes_best and logits.device.type == "cpu":
            return SampledTokens(_best_on_cpu(logits), [None] * len(sequences))
        with torch.inference_mode():
            return self._sample(logits.float(), batch)

    def _sample(self, raw: Tensor, batch: _Batch) -> SampledTokens:
        adjusted = batch.adjust(raw)
        best, drawn = adjusted.max(dim=-1)
        if batch.random_rows is not None:
            drawn = self._draw_random(adjusted, drawn, batch)
        token_ids: list[int] = torch.where(best.isfinite(), drawn, INVALID_TOKEN).tolist()
        if batch.counts is not None:
            batch.counts.add(token_ids)
        return SampledTokens(token_ids, batch.logprobs(raw, token_ids))

    def _draw_random(self, logits: Tensor, greedy: Tensor, batch: _Batch) -> Tensor:
        rows = batch.random_rows
        assert rows is not None and batch.temperatures is not None
        whole = len(rows) == len(logits)
        scaled = (logits if whole else logits[rows]) / batch.temperatures
        probs = batch.filter.apply(scaled) if batch.filter else scaled.softmax(dim=-1)
        tokens = draw(probs, self._uniforms(batch).to(logits.device))
        return tokens if whole else greedy.index_copy(0, rows, tokens)

    def _uniforms(self, batch: _Batch) -> Tensor:
        assert batch.random_rows is not None
        count = len(batch.random_rows)
        uniforms = torch.rand(count, dtype=torch.float64, generator=self._generator)
        if batch.seeded:
            values = [next(_uniforms_of(sequence)) for sequence in batch.seeded_sequences]
            uniforms[batch.seeded] = torch.tensor(values, dtype=torch.float64)
        return uniforms


def _best_on_cpu(logits: Tensor) -> list[int]:
    """Most likely token of each row of [R, V]; numpy finds it ten times faster than torch."""
    rows = (logits if logits.dtype == torch.float32 else logits.float()).numpy()
    tokens = rows.argmax(axis=-1)  # of a NaN, if there is one
    best = rows[np.arange(len(rows)), tokens]
    return np.where(np.isfinite(best), tokens, INVALID_TOKEN).tolist()


def draw(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Inverts each row's cumulative distribution.

    Args:
        probs: [R, V] non-negative; a row need not sum to 1.
        uniforms: [R] float64 in [0, 1).

    Returns:
        [R] int64; never a token of probability 0.
    """
    cumulative = probs.cumsum(dim=-1, dtype=torch.float64)
    targets = uniforms[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, targets, right=True)[:, 0]
    return tokens.clamp_(max=probs.shape[-1] - 1)


class _Batch:
    """The sampling parameters of one set of sequences as tensors, kept while the set stays."""

    def __init__(self, sequences: list[Sequence], vocab_size: int, device: torch.device) -> None:
        params = [s.request.sampling for s in sequences]
        self.sequences = list(sequences)
        random = [row for row, p in enumerate(params) if not p.is_greedy]
        self.random_rows = torch.tensor(random, device=device) if random else None
        self.seeded = [i for i, row in enumerate(random) if params[row].seed is not None]
        self.seeded_sequences = [sequences[random[i]] for i in self.seeded]
        self.temperatures = None
        self.filter = None
        if random:
            temperatures = [[params[row].temperature] for row in random]
            self.temperatures = torch.tensor(temperatures, device=device)
            self.filter = SamplingFilter.build([params[row] for row in random], device)
        self.counts = TokenCounts.build(sequences, vocab_size, device)
        self._bias = _bias_index(params, device)
        self._min_tokens = [
            (row, s, torch.tensor(sorted(s.stop_token_ids), device=device))
            for row, s in enumerate(sequences)
            if s.request.sampling.min_tokens > s.num_output_tokens and s.stop_token_ids
        ]
        self._logprob_rows = [row for row, p in enumerate(params) if p.logprobs is not None]
        self.takes_best = not (
            random or self._logprob_rows or self.counts or self._bias or self._min_tokens
        )
        """Whether each row's most likely token is all that is wanted."""
        self._num_top = [params[row].logprobs or 0 for row in self._logprob_rows]

    def adjust(self, logits: Tensor) -> Tensor:
        """[R, V] logits after penalties, bias and minimum length; the argument if none apply."""
        if self.counts is None and self._bias is None and not self._min_tokens:
            return logits
        logits = logits.clone()
        if self.counts is not None:
            self.counts.penalize(logits)
        if self._bias is not None:
            rows, columns, values = self._bias
            logits.index_put_((rows, columns), values, accumulate=True)
        for row, sequence, stop_ids in self._min_tokens:
            if sequence.num_output_tokens < sequence.request.sampling.min_tokens:
                logits[row, stop_ids] = -math.inf
        return logits

    def logprobs(self, logits: Tensor, token_ids: list[int]) -> list[TokenLogprob | None]:
        """[R] log-probabilities of the drawn tokens where asked for."""
        reported: list[TokenLogprob | None] = [None] * len(token_ids)
        rows = self._logprob_rows
        if rows:
            chosen = [max(token_ids[row], 0) for row in rows]
            found = token_logprobs(logits[rows], chosen, self._num_top)
            for row, logprob in zip(rows, found, strict=True):
                reported[row] = logprob
        return reported


def _bias_index(
    params: list[SamplingParams], device: torch.device
) -> tuple[Tensor, Tensor, Tensor] | None:
    entries = [(row, t, b) for row, p in enumerate(params) for t, b in p.logit_bias.items()]
    if not entries:
        return None
    rows, columns, values = zip(*entries, strict=True)
    return (
        torch.tensor(rows, device=device),
        torch.tensor(columns, device=device),
        torch.tensor(values, dtype=torch.float32, device=device),
    )


def _uniforms_of(sequence: Sequence) -> Iterator[float]:
    """The numbers of a sequence's own generator; drawn in blocks, since one costs as much."""
    if sequence.uniforms is None:
        seed = sequence.request.sampling.seed
        assert seed is not None
        sequence.uniforms = _seeded_uniforms(seed)
    return sequence.uniforms


def _seeded_uniforms(seed: int) -> Iterator[float]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.rand(64, dtype=torch.float64, generator=generator).tolist()
