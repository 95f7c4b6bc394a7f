"""The paper's form: one pass over prompt, gist tokens and turn under the gist mask.

Mu, Li, Goodman 2023 (arXiv 2304.08467), section 3, decoder-only: rows behind the last gist token
lose the columns before the first; the whole model is trained. The controls: "positive" has no
restriction, in "negative" the rows behind the gists see neither them nor the prompt.
"""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...compress.adapter import GistAdapter
from ...compress.compressor import check_gist_support
from ...compress.config import GistConfig
from .batch import IGNORED
from .flex import flex_attention_in, flex_problem
from .loss import lm_loss
from .mask import Condition, gist_block_mask, gist_mask

logger = logging.getLogger(__name__)

GIST_TOKEN = "<GIST>"

Attention = Literal["auto", "dense", "flex"]


def add_gist_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Append `<GIST>` to the vocabulary and return its id (or find it where it already is).

    Its embedding, and its row of an untied head, start as the mean of all the others. The model's
    table grows only when it has no spare row; a spare row is overwritten.
    """
    known = tokenizer.convert_tokens_to_ids(GIST_TOKEN)
    if isinstance(known, int) and tokenizer.convert_ids_to_tokens(known) == GIST_TOKEN:
        return known
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [GIST_TOKEN]}, replace_extra_special_tokens=False
    )
    token = tokenizer.convert_tokens_to_ids(GIST_TOKEN)
    rows = model.get_input_embeddings().weight.shape[0]
    if token >= rows:
        model.resize_token_embeddings(token + 1, mean_resizing=False)
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    with torch.no_grad():
        for table in tables:
            if table is not None:
                table.weight[token] = table.weight[:token].mean(0)
    return token


class MaskedGist(nn.Module):
    """Single-pass gist training of a whole model whose vocabulary holds the gist tokens.

    `gist_ids` are the ids of the k gist tokens (one id repeated k times in the paper). A
    `GistAdapter` applied around the call acts on the whole pass. `attention`: "dense" adds a mask
    [R, 1, T, T] in the model's own attention implementation, "flex" leaves out the blocks that the
    mask drops (trains on CUDA only), "auto" is flex where that works and dense elsewhere.
    """

    accepts_loss_kwargs = True  # read by transformers.Trainer: forward takes num_items_in_batch

    def __init__(
        self,
        model: PreTrainedModel,
        gist_ids: list[int],
        *,
        sink_tokens: int = 0,
        condition: Condition = "gist",
        attention: Attention = "auto",
    ) -> None:
        super().__init__()
        check_gist_support(model)
        if not gist_ids:
            raise ValueError("gist_ids is empty: at least one gist token is needed")
        self.model = model
        self.gist_ids = gist_ids
        self.sink_tokens = sink_tokens
        self.condition = condition
        self.attention: Attention = attention

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
        ids, columns = self._pack(prompt_ids[turn_prompts], lengths, turn_ids)
        total, k = ids.shape[1], len(self.gist_ids)
        wanted = torch.zeros(ids.shape, dtype=torch.bool, device=ids.device)
        wanted.scatter_(1, columns[:, k:], labels != IGNORED)
        kept = wanted.any(0).nonzero().flatten()
        flex = self._uses_flex()
        with flex_attention_in(self.model) if flex else nullcontext():
            logits = self.model(
                input_ids=ids,
                attention_mask=self._mask(lengths, total, flex),
                position_ids=torch.arange(total, device=ids.device).expand(len(ids), -1),
                use_cache=False,
                logits_to_keep=kept,
            ).logits
        return logits[wanted[:, kept]]

    def gist_adapter(self) -> GistAdapter:
        """What compresses prompts for `self.model`: its own embeddings of the gist tokens, no LoRA.

        Serving it in two passes equals this module's single pass in condition "gist".
        """
        config = GistConfig(
            num_gist_tokens=len(self.gist_ids), sink_tokens=self.sink_tokens, lora_rank=0
        )
        adapter = GistAdapter.create(self.model, config)
        with torch.no_grad():
            table = self.model.get_input_embeddings().weight
            adapter.gist_embeddings.copy_(table[self.gist_ids])
        return adapter

    def save_checkpoint(self, directory: Path) -> None:
        """Write all that is trained: the model folder."""
        self.model.save_pretrained(directory)

    def load_checkpoint(self, directory: Path) -> None:
        """Take over the values that `save_checkpoint` wrote."""
        saved = type(self.model).from_pretrained(directory, dtype=self.model.dtype)
        self.model.load_state_dict(saved.state_dict())

    def _uses_flex(self) -> bool:
        if self.attention == "auto" and self.model.device.type == "cuda":
            problem = flex_problem(self.model)
            if problem is not None:
                logger.warning("FlexAttention cannot be used, a dense mask is: %s", problem)
            self.attention = "dense" if problem else "flex"
        return self.attention == "flex"

    def _mask(self, lengths: Tensor, total: int, flex: bool) -> Tensor | BlockMask:
        k, sink = len(self.gist_ids), self.sink_tokens
        if flex:
            return gist_block_mask(lengths, k, sink, total, self.condition)
        visible = gist_mask(lengths, k, sink, total, self.condition)
        dtype = self.model.dtype
        mask = torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
        return mask[:, None]

    def _pack(self, prompts: Tensor, lengths: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's prompt, gists and turn without gaps; the columns of gists and turn."""
        gists = torch.tensor(self.gist_ids, device=turns.device).expand(len(turns), -1)
        tail = torch.cat([gists, turns], 1)
        columns = lengths[:, None] + torch.arange(tail.shape[1], device=turns.device)
        rows = nn.functional.pad(prompts, (0, tail.shape[1]))
        return rows.scatter(1, columns, tail), columns
