"""Which of some given answers a model would be likeliest to write."""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache, PreTrainedModel

from ..padding import pad_left, pad_rows
from ..text_ids import IGNORED

Ids = Sequence[int]


@torch.no_grad()
def likeliest(
    model: PreTrainedModel,
    prompts: Sequence[Ids],
    candidates: Sequence[Sequence[Ids]],
    *,
    pad_id: int,
    batch_size: int,
) -> list[int]:
    """For each prompt the index of the candidate of highest probability, of equal ones the first.

    prompts, candidates: token ids, the latter with their end tokens; each prompt has its own, one
    or more. A prompt is computed once for all of them.
    """
    was_training = model.training
    model.eval()
    score = _after_encoder if model.config.is_encoder_decoder else _after_cache
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    best = [0] * len(prompts)
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc="ranking answers", delay=5, mininterval=1):
        rows = order[start : start + batch_size]
        targets = [target for row in rows for target in candidates[row]]
        counts = [len(candidates[row]) for row in rows]
        owners = torch.arange(len(rows)).repeat_interleave(torch.tensor(counts)).to(model.device)
        labels = pad_rows(targets, IGNORED).to(model.device)
        logits = score(model, [prompts[row] for row in rows], owners, labels, pad_id)
        for row, scores in zip(rows, _log_probs(logits, labels).split(counts), strict=True):
            best[row] = int(scores.argmax())
    model.train(was_training)
    return best


def _log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities [R] of whole targets: labels [R, T], logits [R, T, V] at their places."""
    asked = labels != IGNORED
    ids = labels.masked_fill(~asked, 0)
    each = logits.float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    return each.where(asked, 0.0).sum(1)


def _after_cache(
    model: PreTrainedModel, prompts: list[Ids], owners: Tensor, labels: Tensor, pad_id: int
) -> Tensor:
    """Logits [R, T, V] of a causal model behind the prompts `owners` [R]."""
    ids, mask = (tensor.to(model.device) for tensor in pad_left(prompts, pad_id))
    cache = DynamicCache(config=model.config)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    first = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
        use_cache=True, logits_to_keep=1,
    ).logits[:, -1:]  # fmt: skip
    cache.batch_select_indices(owners)
    given = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, pad_id)
    if not given.shape[1]:
        return first[owners]
    steps = torch.arange(1, given.shape[1] + 1, device=given.device)
    rest = model(
        input_ids=given,
        attention_mask=torch.cat([mask[owners], torch.ones_like(given)], 1),
        position_ids=positions[owners, -1:] + steps,
        past_key_values=cache,
        use_cache=True,
    ).logits
    return torch.cat([first[owners], rest], 1)


def _after_encoder(
    model: PreTrainedModel, prompts: list[Ids], owners: Tensor, labels: Tensor, pad_id: int
) -> Tensor:
    """Logits [R, T, V] of an encoder-decoder model for the prompts `owners` [R]."""
    ids = pad_rows(prompts, pad_id).to(model.device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=ids.device)
    mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
    states = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    start = model.config.decoder_start_token_id
    first = labels.new_full((len(labels), 1), pad_id if start is None else start)
    given = torch.cat([first, labels[:, :-1]], 1)
    logits: Tensor = model(
        encoder_outputs=(states[owners],),
        attention_mask=mask[owners],
        decoder_input_ids=given.masked_fill(given == IGNORED, pad_id),
    ).logits
    return logits
