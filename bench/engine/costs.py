"""The fewest bytes and operations that a model's steps need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from ...server.engine.engine_info import weight_bytes


@dataclass(frozen=True)
class ModelCosts:
    """What steps of a model read and compute.

    Attributes:
        weight_bytes: all weights once, but for an embedding table that is not the head as well. Of
            a mixture of experts all experts count.
        kv_bytes_per_token: keys and values of one slot over all layers. That a layer has a window
            is not regarded.
        linear_params: weights of the dense linear layers that every token goes through.
        head_params: weights of the head, which only tokens that are followed by a drawn one need.
        attention_dims: sum over the layers of query heads times their size.
    """

    weight_bytes: int
    linear_params: int
    head_params: int
    attention_dims: int
    kv_bytes_per_token: int = 0

    @classmethod
    def of(cls, model: PreTrainedModel) -> ModelCosts:
        """All but the cache's, of a model that no engine has laid out in its own way yet."""
        table = model.get_input_embeddings().weight
        head = model.get_output_embeddings()
        untied = head.weight is not table
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            weight_bytes=weight_bytes(model) - untied * table.numel() * table.element_size(),
            linear_params=sum(
                module.weight.numel()
                for module in model.modules()
                if isinstance(module, nn.Linear) and module is not head
            ),
            head_params=head.weight.numel(),
            attention_dims=config.num_hidden_layers * heads * head_dim,
        )

    def decode_bytes(self, seq_lens: Sequence[int]) -> float:
        """Of one step of a new token a sequence: the weights, and the slots of every sequence.

        A sequence's length counts its new token.
        """
        return float(self.weight_bytes + self.kv_bytes_per_token * sum(seq_lens))

    def decode_flops(self, seq_lens: Sequence[int]) -> float:
        """Of such a step: two for each weight and token, four for each element of a query head and
        visible slot."""
        each = 2 * (self.linear_params + self.head_params)
        return float(len(seq_lens) * each + 4 * self.attention_dims * sum(seq_lens))

    def prefill_flops(self, num_seqs: int, length: int) -> float:
        """Of computing prompts of this length and the logits behind each of them."""
        pairs = length * (length + 1) // 2
        each = 2 * self.linear_params * length + 2 * self.head_params
        return float(num_seqs * (each + 4 * self.attention_dims * pairs))
