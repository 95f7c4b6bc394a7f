"""The objectives, how one is chosen, and the proof that a model keeps packed documents apart."""

import inspect
from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..config import ConfigError
from .causal import Batch, CausalObjective
from .example import Example
from .masked_tokens import MaskedObjective
from .packing import Piece
from .span_corruption import SpanObjective

ObjectiveName = Literal["causal", "masked", "span_corruption"]
AUTO_MODELS: dict[str, Any] = {
    "causal": AutoModelForCausalLM,
    "masked": AutoModelForMaskedLM,
    "span_corruption": AutoModelForSeq2SeqLM,
}
assert set(AUTO_MODELS) == set(get_args(ObjectiveName))

_TOLERANCE = 1e-3


class Objective(Protocol):
    """What is learned from a piece of a document."""

    @property
    def attention(self) -> tuple[str, ...]:
        """Names of the attention implementations that it can be learned with."""

    def example(self, piece: Piece, generator: np.random.Generator) -> Example:
        """Inputs and labels of a piece; all that is random comes from `generator`."""

    def batch(self, rows: Sequence[Sequence[Example]]) -> Batch:
        """Tensors of rows of examples, `labels` [R, U] among them; R comes first in each."""

    def logits(self, model: Any, batch: Batch) -> Tensor:
        """Logits [R, U, V] of a batch on the model's device."""


def make_objective(
    name: ObjectiveName,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    share: float,
    mean_span: float,
) -> Objective:
    """The objective `name` for a model. ConfigError where they do not go together."""
    objective: Objective
    if name == "masked":
        first = _first_position(model)
        objective = MaskedObjective(tokenizer, share=share, first_position=first)
    elif name == "span_corruption":
        start = model.config.decoder_start_token_id
        objective = SpanObjective(
            tokenizer, length=length, decoder_start=start, share=share, mean_span=mean_span
        )
    else:
        objective = CausalObjective()
    used = model.config._attn_implementation
    if used not in objective.attention:
        raise ConfigError(
            f"attn_implementation: {used} cannot keep packed documents apart with objective: "
            f"{name}; use one of {', '.join(objective.attention)}"
        )
    return objective


def _first_position(model: PreTrainedModel) -> int:
    """Where the model's positions begin: 0, but padding id + 1 in RoBERTa and its like."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


@torch.no_grad()
def check_packing(objective: Objective, model: PreTrainedModel, length: int) -> None:
    """Raise ConfigError unless packed documents get the logits that each gets alone.

    Tried on two short random documents. Models with state that runs through the row, or that
    ignore positions or masks, are found out here. Attention that needs a GPU is left out.
    """
    _check_arguments(objective, model)
    if model.config._attn_implementation.startswith(("flash", "flex")):
        return
    generator = np.random.default_rng(0)
    size = max(2, min(8, length // 2))
    vocabulary = model.get_input_embeddings().weight.shape[0]
    documents = [generator.integers(0, vocabulary, size) for _ in range(2)]
    examples = [objective.example(Piece(ids, None), generator) for ids in documents]
    was_training = model.training
    model.eval()
    together = _row_logits(objective, model, examples)
    apart = torch.cat([_row_logits(objective, model, [example]) for example in examples])
    model.train(was_training)
    if not torch.allclose(together, apart, atol=_TOLERANCE * float(apart.abs().max())):
        raise ConfigError(
            f"{type(model).__name__} mixes documents that are packed into one row: it cannot be "
            "trained here with several documents in a row"
        )


def _row_logits(objective: Objective, model: PreTrainedModel, row: Sequence[Example]) -> Tensor:
    batch = objective.batch([row])
    on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
    return objective.logits(model, on_device)[0]


def _check_arguments(objective: Objective, model: PreTrainedModel) -> None:
    if isinstance(objective, SpanObjective):
        return
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise ConfigError(
            f"{type(model).__name__} takes no position_ids, which keep packed documents apart"
        )
