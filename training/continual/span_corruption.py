"""Span corruption for encoder-decoder models (Raffel et al. 2020, section 3.1.4)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..config import ConfigError
from .causal import Batch
from .example import IGNORED, Example, for_attention, joined, same_segment, segments
from .packing import Ids, Piece


class SpanObjective:
    """Spans of a piece are replaced by sentinel tokens; the decoder writes what they stood for.

    `share` of the tokens is removed in spans of `mean_span` tokens on average. A piece of a single
    token has nothing to remove and is left out. Pieces are kept apart by masks in the encoder, the
    decoder and between them.
    """

    attention = ("sdpa", "eager")

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        length: int,
        decoder_start: int | None,
        share: float = 0.15,
        mean_span: float = 3.0,
    ) -> None:
        if decoder_start is None or tokenizer.eos_token_id is None:
            raise ConfigError(
                "objective: span_corruption needs an encoder-decoder model with a "
                "decoder_start_token_id and a tokenizer with an end token"
            )
        self._sentinels = _sentinels(tokenizer)
        self._share, self._mean_span = share, mean_span
        self._end, self._start = tokenizer.eos_token_id, decoder_start
        spans = self._spans(length)[1]
        if spans > len(self._sentinels):
            raise ConfigError(
                f"sequence_length {length} has up to {spans} spans, but the tokenizer only "
                f"{len(self._sentinels)} sentinel tokens (<extra_id_0>, ...): shorten it"
            )

    def example(self, piece: Piece, generator: np.random.Generator) -> Example:
        if len(piece.tokens) < 2:
            return Example(np.zeros(0, np.int64), np.zeros(0, np.int64))
        removed = self._removed(len(piece.tokens), generator)
        target = np.append(_with_sentinels(piece.tokens, ~removed, self._sentinels), self._end)
        return Example(
            inputs=_with_sentinels(piece.tokens, removed, self._sentinels),
            labels=target,
            decoder_inputs=np.insert(target[:-1], 0, self._start),
        )

    def batch(self, rows: Sequence[Sequence[Example]]) -> Batch:
        """input_ids and segments [R, T]; decoder_* and labels [R, U]; all int64."""
        inputs = [[example.inputs for example in row] for row in rows]
        decoder = [[example.decoder_inputs for example in row] for row in rows]
        return {
            "input_ids": joined(inputs, self._end),
            "segments": segments(inputs),
            "decoder_input_ids": joined(decoder, self._start),
            "decoder_segments": segments(decoder),
            "labels": joined([[example.labels for example in row] for row in rows], IGNORED),
        }

    def logits(self, model: Any, batch: Batch) -> Tensor:
        """Logits [R, U, V] for the labels."""
        inner = getattr(model, "module", model)
        encoder, decoder = batch["segments"], batch["decoder_segments"]
        across = for_attention(same_segment(decoder, encoder), inner)
        with _cross_attention(inner.get_decoder(), across):
            logits: Tensor = model(
                input_ids=batch["input_ids"],
                attention_mask=for_attention(same_segment(encoder, encoder), inner),
                decoder_input_ids=batch["decoder_input_ids"],
                decoder_attention_mask=for_attention(
                    same_segment(decoder, decoder, causal=True), inner
                ),
                use_cache=False,
            ).logits
        return logits

    def _spans(self, length: int) -> tuple[int, int]:
        """Tokens to remove of `length`, and in how many spans."""
        removed = min(max(round(length * self._share), 1), length - 1)
        spans = max(round(removed / self._mean_span), 1)
        return removed, min(spans, removed, length - removed)

    def _removed(self, length: int, generator: np.random.Generator) -> NDArray[np.bool_]:
        """[length] bool, true for removed tokens. Kept and removed spans alternate, kept first."""
        removed, spans = self._spans(length)
        lengths = np.empty(2 * spans, np.int64)
        lengths[0::2] = _parts(length - removed, spans, generator)
        lengths[1::2] = _parts(removed, spans, generator)
        return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def _parts(total: int, count: int, generator: np.random.Generator) -> Ids:
    """`count` random whole numbers >= 1 that sum to `total`; all ways are as likely."""
    cuts = np.sort(generator.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def _with_sentinels(tokens: Ids, hidden: NDArray[np.bool_], sentinels: Ids) -> Ids:
    """`tokens` with each run of hidden ones replaced by the next sentinel."""
    first = hidden & ~np.concatenate([[False], hidden[:-1]])
    replaced = np.where(first, sentinels[np.cumsum(first) - 1], tokens)
    return replaced[~hidden | first]


def _sentinels(tokenizer: PreTrainedTokenizerBase) -> Ids:
    """Ids of <extra_id_0>, <extra_id_1>, ..."""
    vocabulary = tokenizer.get_vocab()
    names = [f"<extra_id_{i}>" for i in range(len(vocabulary))]
    ids = [vocabulary[name] for name in names if name in vocabulary]
    if not ids:
        raise ConfigError(
            "objective: span_corruption needs a tokenizer with sentinel tokens <extra_id_0>, ..."
        )
    return np.asarray(ids, np.int64)


@contextmanager
def _cross_attention(decoder: nn.Module, mask: Tensor) -> Iterator[None]:
    """Have the decoder look at the encoder through `mask`.

    The model's own arguments allow one mask for both the encoder and the look at it.
    """

    def replace(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return args, kwargs | {"encoder_attention_mask": mask}

    handle = decoder.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
