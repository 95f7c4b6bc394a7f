"""Draws the next token of every sequence in one pass over the batch.

Order as in transformers: penalties, bias, minimum length, grammar, temperature, top-k, top-p,
min-p. A token is drawn by inverting the cumulative distribution (float64, vocabulary order) at one
uniform number a request, which comes from the request's own generator if it has a seed. Every
operation works on rows alone, so a request's tokens do not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .request import TokenLogprob
from .sampling_batch import SamplingBatch
from .sampling_filter import candidate_sizes
from .scheduler import INVALID_TOKEN
from .sequence import Sequence
from .token_mask import TokenMask
from .transfer import download, upload

# Fewer most likely tokens are found no faster on a device, and a nucleus more often exceeds them.
_DEVICE_CANDIDATES = 1024


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
        self._batch: SamplingBatch | None = None

    def sample(self, logits: Tensor, sequences: list[Sequence]) -> SampledTokens:
        """Draws one token for each row. The one wait for a device is to fetch what was drawn.

        Args:
            logits: [R, V] of any floating type; not modified.
            sequences: [R] whose next token each row predicts.
        """
        batch = self._batch
        if batch is None or batch.sequences != sequences:
            batch = self._batch = SamplingBatch(sequences, logits.shape[-1], logits.device)
        with torch.inference_mode():
            if not batch.takes_best:
                return self._sample(logits.float(), batch)
            find = _best_on_cpu if logits.device.type == "cpu" else _best
            return SampledTokens(find(logits, batch.mask), [None] * len(sequences))

    def _sample(self, raw: Tensor, batch: SamplingBatch) -> SampledTokens:
        adjusted = batch.adjust(raw)
        best, greedy = adjusted.max(dim=-1)
        invalid = ~best.isfinite()
        (uniforms,) = upload([self._uniforms(batch)], raw.device)
        for num_candidates in _attempts(raw):
            drawn, found = _draw_random(adjusted, greedy, uniforms, batch, num_candidates)
            tokens = drawn.masked_fill(invalid, INVALID_TOKEN)
            columns = batch.logprob_columns(raw, tokens)
            token_ids, *rest = download([tokens, *columns, *found])
            if not found or rest.pop():
                break
        if batch.counts is not None:
            batch.counts.add(tokens)
        return SampledTokens(token_ids.tolist(), batch.report(rest))

    def _uniforms(self, batch: SamplingBatch) -> NDArray[np.float64]:
        """[random rows] numbers in [0, 1)."""
        generator = self._generator
        uniforms = torch.rand(batch.num_random, dtype=torch.float64, generator=generator).numpy()
        if batch.seeded:
            uniforms[batch.seeded] = [next(_uniforms_of(s)) for s in batch.seeded_sequences]
        return uniforms


def _best(logits: Tensor, mask: TokenMask | None = None) -> list[int]:
    """Most likely token of each row of [R, V], of those that the mask leaves."""
    if mask is not None:
        logits = logits.clone()
        mask.apply(logits)
    best, tokens = logits.max(dim=-1)  # a NaN, if there is one
    (token_ids,) = download([tokens.masked_fill(~best.isfinite(), INVALID_TOKEN)])
    return token_ids.tolist()


def _best_on_cpu(logits: Tensor, mask: TokenMask | None = None) -> list[int]:
    """The same; numpy finds it ten times faster than torch, and no row but the masked is copied."""
    if mask is not None:
        token_ids = _best_on_cpu(logits)
        for row, token_id in zip(mask.rows, _best_on_cpu(mask.masked(logits)), strict=True):
            token_ids[row] = token_id
        return token_ids
    rows = (logits if logits.dtype == torch.float32 else logits.float()).numpy()
    tokens = rows.argmax(axis=-1)  # of a NaN, if there is one
    best = rows[np.arange(len(rows)), tokens]
    return np.where(np.isfinite(best), tokens, INVALID_TOKEN).tolist()


def _attempts(logits: Tensor) -> list[int | None]:
    """Among how many tokens to look for a nucleus, until it is found; None: until, at once.

    On a device only the fetched tokens tell whether it was: to ask before would be a wait more.
    """
    if logits.device.type == "cpu":
        return [None]
    return [*candidate_sizes(logits.shape[-1], smallest=_DEVICE_CANDIDATES)]


def _draw_random(
    logits: Tensor,
    greedy: Tensor,
    uniforms: Tensor,
    batch: SamplingBatch,
    num_candidates: int | None,
) -> tuple[Tensor, list[Tensor]]:
    """Tokens [R], drawn in the random rows, and, where it is in question, whether all nuclei were
    found among the candidates."""
    if not batch.num_random:
        return greedy, []
    rows, whole = batch.random_rows, batch.num_random == len(logits)
    scaled = (logits if whole else logits[rows]) / batch.temperatures
    found: list[Tensor] = []
    if batch.filter is None:
        probs = scaled.softmax(dim=-1)
    elif num_candidates is None or batch.filter.top_p is None:
        probs = batch.filter.apply(scaled)
    else:
        probs, all_found = batch.filter.apply_among(scaled, num_candidates)
        found = [all_found]
    tokens = draw(probs, uniforms)
    return (tokens if whole else greedy.index_copy(0, rows, tokens)), found


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
