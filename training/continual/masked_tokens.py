"""Masked-token prediction for encoders (Devlin et al. 2019, section 3.1)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..config import ConfigError
from .causal import Batch
from .example import IGNORED, Example, for_attention, joined, positions, same_segment, segments
from .packing import Piece

_MASKED, _REPLACED = 0.8, 0.1


class MaskedObjective:
    """A share of the tokens is to be recovered: 80% of them masked, 10% replaced, 10% kept.

    Special tokens are neither chosen nor put in place of others. Pieces are kept apart by positions
    that begin again and by a mask [R, 1, T, T].
    """

    attention = ("sdpa", "eager")

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, share: float = 0.15, first_position: int = 0
    ) -> None:
        if tokenizer.mask_token_id is None:
            raise ConfigError("objective: masked needs a tokenizer with a mask token")
        self._mask_id = tokenizer.mask_token_id
        self._share = share
        self._first = first_position
        self._special = np.asarray(tokenizer.all_special_ids)
        self._ordinary = np.setdiff1d(np.arange(len(tokenizer)), self._special)

    def example(self, piece: Piece, generator: np.random.Generator) -> Example:
        size = len(piece.tokens)
        chosen = generator.random(size) < self._share
        chosen &= ~np.isin(piece.tokens, self._special)
        fate = generator.random(size)
        others = generator.choice(self._ordinary, size)
        inputs = np.where(chosen & (fate < _MASKED), self._mask_id, piece.tokens)
        replaced = chosen & (fate >= _MASKED) & (fate < _MASKED + _REPLACED)
        inputs = np.where(replaced, others, inputs)
        return Example(inputs, np.where(chosen, piece.tokens, IGNORED))

    def batch(self, rows: Sequence[Sequence[Example]]) -> Batch:
        """input_ids, position_ids, segments and labels, each [R, T] int64."""
        inputs = [[example.inputs for example in row] for row in rows]
        return {
            "input_ids": joined(inputs, self._mask_id),
            "position_ids": positions(inputs, self._first),
            "segments": segments(inputs),
            "labels": joined([[example.labels for example in row] for row in rows], IGNORED),
        }

    def logits(self, model: Any, batch: Batch) -> Tensor:
        """Logits [R, T, V] for the labels."""
        apart = same_segment(batch["segments"], batch["segments"])
        logits: Tensor = model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            attention_mask=for_attention(apart, getattr(model, "module", model)),
        ).logits
        return logits
