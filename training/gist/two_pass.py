"""The default form: a frozen base model, trained through the very passes that serve a gist."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...compress.adapter import GistAdapter
from ...compress.compressor import GistCompressor
from .batch import IGNORED
from .forward import PromptCaches, answer_logits, full_prompt
from .loss import lm_loss, token_kl


class TwoPassGist(nn.Module):
    """Pass 1, adapter on: prompt and gist tokens to a cache. Pass 2, adapter off: the turns on it.

    Only the adapter's parameters are trained; the base model is frozen and set to evaluation mode
    (no dropout), so that it is its own teacher: `distill` is KL[model with the full prompt || model
    with the gist] on the answer tokens, `lm` the cross-entropy of the answers. ValueError when
    both weights are zero or one is negative; GistAdapterError when adapter and model do not fit.
    """

    accepts_loss_kwargs = True  # read by transformers.Trainer: forward takes num_items_in_batch

    def __init__(
        self,
        model: PreTrainedModel,
        adapter: GistAdapter,
        *,
        distill_weight: float = 1.0,
        lm_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if min(distill_weight, lm_weight) < 0 or distill_weight + lm_weight == 0:
            raise ValueError(
                f"distill_weight ({distill_weight}) and lm_weight ({lm_weight}) must not be "
                "negative, nor both zero"
            )
        self.model = model.requires_grad_(False).eval()
        self.adapter = adapter
        self.compressor = GistCompressor(model, adapter)
        self.distill_weight = distill_weight
        self.lm_weight = lm_weight

    def train(self, mode: bool = True) -> "TwoPassGist":
        """Training mode for the adapter alone: the teacher must not drop anything out."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(
        self,
        prompt_ids: Tensor,
        prompt_lengths: Tensor,
        turn_ids: Tensor,
        turn_prompts: Tensor,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a `GistBatch`: `loss` (to minimise), and detached `lm`, `distill`, `tokens`.

        All are sums over answer tokens divided by their number, or by `num_items_in_batch` (the
        answer tokens of all batches that make up one optimizer step).
        """
        states = self.compressor.compress_batch(prompt_ids, prompt_lengths)
        student = answer_logits(self.model, PromptCaches(states), turn_ids, turn_prompts, labels)
        targets = labels[labels != IGNORED]
        count = len(targets) if num_items_in_batch is None else num_items_in_batch
        zero = student.new_zeros((), dtype=torch.float32)
        lm = lm_loss(student, targets) / count if self.lm_weight else zero
        distill = zero
        if self.distill_weight:
            with torch.no_grad():
                prompts = full_prompt(self.model, prompt_ids, prompt_lengths)
                teacher = answer_logits(self.model, prompts, turn_ids, turn_prompts, labels)
            distill = token_kl(teacher, student).sum() / count
        loss = self.lm_weight * lm + self.distill_weight * distill
        return {
            "loss": loss,
            "lm": lm.detach(),
            "distill": distill.detach(),
            "tokens": torch.tensor(len(targets)),
        }

    def gist_adapter(self) -> GistAdapter:
        """What compresses prompts for `self.model`."""
        return self.adapter

    def save_checkpoint(self, directory: Path) -> None:
        """Write all that is trained: the adapter folder."""
        self.adapter.save(directory)

    def load_checkpoint(self, directory: Path) -> None:
        """Take over the values that `save_checkpoint` wrote."""
        self.adapter.copy_values(GistAdapter.load(directory))
