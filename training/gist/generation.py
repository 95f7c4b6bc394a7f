"""Batched greedy decoding behind cached prompts, for evaluation during training."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..padding import pad_rows
from .forward import PromptCaches


@torch.no_grad()
def greedy_decode(
    model: PreTrainedModel,
    prompts: PromptCaches,
    owners: Tensor,
    inputs: list[list[int]],
    max_new_tokens: int,
    stop_ids: set[int],
) -> list[list[int]]:
    """Greedy continuations of `inputs`, row r following prompt `owners[r]` (int64 [R]).

    Each ends with the first of `stop_ids`, which is kept, or after `max_new_tokens`.
    """
    device = owners.device
    cache, slot_mask, start = prompts.rows(owners)
    ids = pad_rows(inputs, 0).to(device)
    lengths = torch.tensor([len(row) for row in inputs], device=device)
    mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
    slots = prompts.states.slots if prompts.states is not None else 0
    if slot_mask is None:
        slot_mask = mask.new_ones(len(inputs), slots)
    mask = torch.cat([slot_mask, mask], 1)
    positions = start[:, None] + torch.arange(ids.shape[1], device=device)
    keep = lengths - 1
    outputs: list[list[int]] = [[] for _ in inputs]
    running = set(range(len(inputs)))
    for _ in range(max_new_tokens):
        columns, where = keep.unique(return_inverse=True)
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=columns,
        ).logits
        chosen = logits[torch.arange(len(inputs), device=device), where].argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            if row in running:
                outputs[row].append(token)
                running -= {row} if token in stop_ids else set()
        if not running:
            break
        positions = positions.gather(1, keep[:, None]) + 1
        ids, keep = chosen[:, None], torch.zeros_like(keep)
        mask = torch.cat([mask, mask.new_ones(len(inputs), 1)], 1)
    return outputs
