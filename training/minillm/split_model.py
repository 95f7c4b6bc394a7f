"""A causal language model as a body that makes hidden states and a head that reads them."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..config import ConfigError

_TOLERANCE = 1e-2


class SplitModel:
    """Runs body and head of a transformers' causal language model apart.

    A head's logits are as large as the vocabulary: apart, it runs on the positions that are needed,
    some at a time. ConfigError for a model whose head does more than is known here.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        config = model.config.get_text_config()
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)  # Gemma
        self._scale = float(getattr(config, "logit_scale", None) or 1)  # Cohere
        self._scale /= float(getattr(config, "logits_scaling", None) or 1)  # Granite
        self._check()

    @property
    def vocabulary(self) -> int:
        """Rows of the head, which may be more than the tokenizer has tokens."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    def states(self, input_ids: Tensor) -> Tensor:
        """Last hidden states [B, L, H] of input_ids [B, L] int64, padded on the right if at all.

        No token sees a later one, so padding on the right needs no mask.
        """
        states: Tensor = self.model.base_model(
            input_ids=input_ids, use_cache=False
        ).last_hidden_state
        return states

    def logits(self, states: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., H], in at least float32."""
        logits: Tensor = self.model.get_output_embeddings()(states)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * self._scale
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    @torch.no_grad()
    def _check(self) -> None:
        name = type(self.model).__name__
        if self.model.get_output_embeddings() is None:
            raise ConfigError(f"{name} has no output head: it is not a causal language model")
        ids = torch.arange(min(8, self.vocabulary), device=self.model.device)[None]
        was_training = self.model.training
        self.model.eval()
        whole = self.model(input_ids=ids, use_cache=False).logits.float()
        parts = self.logits(self.states(ids)).float()
        self.model.train(was_training)
        if not torch.allclose(parts, whole, atol=_TOLERANCE * float(whole.abs().max())):
            raise ConfigError(f"{name} makes its logits in a way that distillation does not know")
