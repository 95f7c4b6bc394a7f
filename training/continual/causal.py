"""Next-token prediction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from .example import IGNORED, Example, joined, positions
from .packing import Piece

Batch = dict[str, Tensor]


class CausalObjective:
    """Each token of a document is predicted from those before it in its piece.

    Every token but a document's first is predicted once an epoch: the last token of a piece
    predicts the first of the next piece. Pieces are kept apart by positions that begin at 0 again,
    from which transformers makes the mask (and flash attention its sequence lengths).
    """

    attention = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")

    def example(self, piece: Piece, generator: np.random.Generator) -> Example:
        last = IGNORED if piece.following is None else piece.following
        return Example(piece.tokens, np.append(piece.tokens[1:], last))

    def batch(self, rows: Sequence[Sequence[Example]]) -> Batch:
        """input_ids, position_ids and labels, each [R, T] int64."""
        inputs = [[example.inputs for example in row] for row in rows]
        return {
            "input_ids": joined(inputs, 0),
            "position_ids": positions(inputs),
            "labels": joined([[example.labels for example in row] for row in rows], IGNORED),
        }

    def logits(self, model: Any, batch: Batch) -> Tensor:
        """Logits [R, T, V] for the labels."""
        inputs, places = batch["input_ids"], batch["position_ids"]
        shape = inputs.shape
        if model_attention(model).startswith("flash"):  # it takes packed rows only one at a time
            inputs, places = inputs.reshape(1, -1), places.reshape(1, -1)
        logits: Tensor = model(input_ids=inputs, position_ids=places, use_cache=False).logits
        return logits.view(*shape, -1)


def model_attention(model: Any) -> str:
    """Name of the attention implementation of a model, also of one wrapped for many processes."""
    return str(getattr(model, "module", model).config._attn_implementation)
