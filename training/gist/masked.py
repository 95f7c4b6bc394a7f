"""The paper's form: one pass over prompt, gist tokens and turn under the gist mask.

Mu, Li, Goodman 2023 (arXiv 2304.08467), section 3, decoder-only: rows behind the last gist token
lose the columns before the first; the whole model is trained. The controls: "positive" has no
restriction, in "negative" the rows behind the gists see neither them nor the prompt.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...compress.compressor import check_gist_support
from .batch import IGNORED
from .loss import lm_loss

Condition = Literal["gist", "positive", "negative"]


def gist_mask(
    prompt_lengths: Tensor,
    gist_tokens: int,
    sink_tokens: int,
    total: int,
    condition: Condition = "gist",
) -> Tensor:
    """Which columns each row may attend to: bool [R, total, total], True where it may.

    Row layout: prompt_lengths[r] prompt tokens, `gist_tokens` gists, then the turn. The first
    `sink_tokens` columns stay visible to the turn in condition "gist" (0 in the paper).
    """
    index = torch.arange(total, device=prompt_lengths.device)
    causal = index[None, :] <= index[:, None]
    if condition == "positive":
        return causal.expand(len(prompt_lengths), -1, -1)
    first_gist = prompt_lengths[:, None]
    behind = index >= first_gist + gist_tokens  # [R, total], true for the turn
    hidden = (index >= sink_tokens) & (index < first_gist)
    if condition == "negative":
        hidden = ~behind
    return causal & ~(behind[:, :, None] & hidden[:, None, :])


class MaskedGist(nn.Module):
    """Single-pass gist training of a whole model.

    `gist_embeddings` [k, H], or [1, H] for one token repeated k times as in the paper, are
    parameters of this module beside the model's own. A `GistAdapter` applied around the call acts
    on the whole pass.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        gist_embeddings: Tensor,
        gist_tokens: int,
        *,
        sink_tokens: int = 0,
        condition: Condition = "gist",
    ) -> None:
        super().__init__()
        check_gist_support(model)
        self.model = model
        self.gist_embeddings = nn.Parameter(gist_embeddings)
        self.gist_tokens = gist_tokens
        self.sink_tokens = sink_tokens
        self.condition = condition

    def forward(
        self,
        prompt_ids: Tensor,
        prompt_lengths: Tensor,
        turn_ids: Tensor,
        turn_prompts: Tensor,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """Cross-entropy of a `GistBatch`'s answers: `loss`, and detached `lm` and `tokens`."""
        logits = self.logits(prompt_ids, prompt_lengths, turn_ids, turn_prompts, labels)
        targets = labels[labels != IGNORED]
        count = len(targets) if num_items_in_batch is None else num_items_in_batch
        loss = lm_loss(logits, targets) / count
        return {"loss": loss, "lm": loss.detach(), "tokens": torch.tensor(len(targets))}

    def logits(
        self,
        prompt_ids: Tensor,
        prompt_lengths: Tensor,
        turn_ids: Tensor,
        turn_prompts: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Logits [A, V] where `labels` is not IGNORED, in row-major order."""
        lengths = prompt_lengths[turn_prompts]
        embeds, turn_columns = self._pack(prompt_ids[turn_prompts], lengths, turn_ids)
        total = embeds.shape[1]
        visible = gist_mask(lengths, self.gist_tokens, self.sink_tokens, total, self.condition)
        least = torch.finfo(embeds.dtype).min
        mask = torch.zeros_like(visible, dtype=embeds.dtype).masked_fill(~visible, least)
        wanted = torch.zeros(len(turn_ids), total, dtype=torch.bool, device=labels.device)
        wanted.scatter_(1, turn_columns, labels != IGNORED)
        columns = wanted.any(0).nonzero().flatten()
        logits = self.model(
            inputs_embeds=embeds,
            attention_mask=mask[:, None],
            position_ids=torch.arange(total, device=embeds.device).expand(len(turn_ids), -1),
            use_cache=False,
            logits_to_keep=columns,
        ).logits
        return logits[wanted[:, columns]]

    def _pack(self, prompts: Tensor, lengths: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of each row's prompt, gists and turn without gaps; the turn's columns."""
        embed = self.model.get_input_embeddings()
        room = self.gist_tokens + turns.shape[1]
        rows = nn.functional.pad(embed(prompts), (0, 0, 0, room))
        columns = lengths[:, None] + torch.arange(room, device=lengths.device)
        gists = self.gist_embeddings.to(rows.dtype).expand(self.gist_tokens, -1)
        tail = torch.cat([gists.expand(len(turns), -1, -1), embed(turns)], 1)
        packed = rows.scatter(1, columns[..., None].expand_as(tail), tail)
        return packed, columns[:, self.gist_tokens :]
