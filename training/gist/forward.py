"""Logits of turns that follow a cached prompt: in full, compressed, cut off, or none at all."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ...compress.compressor import GistStates, run_decoder
from .batch import IGNORED


@dataclass
class PromptCaches:
    """Caches of B prompts in one padded form.

    `lengths` [B] (int64) says how many of the first slots are real, None that all are;
    `states.next_positions` where each continuation starts. `states` None: no prompt at all.
    """

    states: GistStates | None
    lengths: Tensor | None = None

    def rows(self, owners: Tensor) -> tuple[DynamicCache, Tensor | None, Tensor]:
        """For rows that follow prompts `owners` [R]: cache, slots' mask [R, S], positions [R]."""
        if self.states is None:
            return DynamicCache(), None, torch.zeros_like(owners)
        mask = None
        if self.lengths is not None:
            slots = torch.arange(self.states.slots, device=owners.device)
            mask = slots < self.lengths[owners, None]
        return self.states.expand(owners), mask, self.states.next_positions[owners]


def full_prompt(model: PreTrainedModel, prompt_ids: Tensor, lengths: Tensor) -> PromptCaches:
    """The base model's own caches of prompts [B, M], padded on the right, of `lengths` [B]."""
    cache = DynamicCache()
    positions = torch.arange(prompt_ids.shape[1], device=prompt_ids.device)
    embeds = model.get_input_embeddings()(prompt_ids)
    run_decoder(model, embeds, positions.expand(len(prompt_ids), -1), cache)
    keys, values = [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]
    return PromptCaches(GistStates(keys, values, lengths), lengths)


def answer_logits(
    model: PreTrainedModel, prompts: PromptCaches, turn_ids: Tensor, owners: Tensor, labels: Tensor
) -> Tensor:
    """Logits [A, V] where `labels` [R, T] is not IGNORED, in row-major order.

    turn_ids [R, T] int64, padded on the right, row r following prompt `owners[r]`. The model runs
    without any adapter, and its head only over columns that some row needs.
    """
    cache, slot_mask, start = prompts.rows(owners)
    wanted = labels != IGNORED
    columns = wanted.any(0).nonzero().flatten()
    positions = start[:, None] + torch.arange(turn_ids.shape[1], device=turn_ids.device)
    mask = None
    if slot_mask is not None:
        mask = torch.cat([slot_mask, torch.ones_like(turn_ids, dtype=torch.bool)], 1)
    logits = model(
        input_ids=turn_ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=columns,
    ).logits
    return logits[wanted[:, columns]]
