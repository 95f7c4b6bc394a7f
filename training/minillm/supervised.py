"""Learning given responses: fine-tuning, and word-level distillation on the same tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..padding import pad_rows
from ..text_ids import IGNORED
from .data import Pair
from .models import Models
from .split_model import SplitModel
from .token_measures import compare_tokens, token_log_probs


class SupervisedObjective(nn.Module):
    """The student with its loss on given responses, as transformers' Trainer calls a model.

    kd_share: of the forward KL from the teacher, KL[p || q], at every token of a response (word-
    level distillation, Kim and Rush 2016, arXiv 1606.07947, section 3.1); the rest is the
    cross-entropy of the responses' own tokens. The teacher is needed for a share above 0.
    """

    accepts_loss_kwargs = True

    def __init__(self, models: Models, kd_share: float = 0.0) -> None:
        super().__init__()
        self.student = models.student
        self._split = SplitModel(models.student)
        # In a SplitModel it is no part of this module, and so neither trained nor saved.
        self._teacher = SplitModel(models.teacher) if kd_share and models.teacher else None
        self._kd_share = kd_share

    def forward(
        self, input_ids: Tensor, labels: Tensor, num_items_in_batch: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The loss in nats, of input_ids and labels [B, L] int64, padded on the right.

        It is divided by `num_items_in_batch`, all tokens of a step, or by the batch's own number.
        """
        states = self._split.states(input_ids)
        asked = labels[:, 1:] != IGNORED
        targets = labels[:, 1:][asked]
        states = states[:, :-1][asked]
        if self._teacher is None:
            losses = -token_log_probs(self._split, states, targets)
        else:
            with torch.no_grad():
                theirs = self._teacher.states(input_ids)[:, :-1][asked]
            log_probs, distance = compare_tokens(
                self._split, states, self._teacher, theirs, targets, divergence="forward"
            )
            losses = self._kd_share * distance - (1 - self._kd_share) * log_probs
        count = len(targets) if num_items_in_batch is None else num_items_in_batch
        return {"loss": losses.sum() / count}


def collate(pairs: Sequence[Pair], pad_id: int) -> dict[str, Tensor]:
    """input_ids and labels [B, L] int64, padded on the right; labels only at the responses."""
    rows = [pair.prompt_ids + pair.response_ids for pair in pairs]
    labels = [[IGNORED] * len(pair.prompt_ids) + pair.response_ids for pair in pairs]
    return {"input_ids": pad_rows(rows, pad_id), "labels": pad_rows(labels, IGNORED)}
