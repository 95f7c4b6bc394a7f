"""Drawing tokens from a mixture of student and teacher while the student generates."""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, PreTrainedModel


class TeacherMixture(LogitsProcessor):
    """Turns a student's scores into log(alpha p + (1 - alpha) q), p of the teacher.

    Teacher-mixed sampling (arXiv 2306.08543, eq. 4). Serves one call of `generate`: it holds the
    teacher's cache, and expects each call to bring one more token a row. mask [B, P]: 1 at real
    tokens of the prompts, which are padded on the left. Only the first `vocabulary` tokens, those
    that both models have, are ever drawn.
    """

    def __init__(
        self, teacher: PreTrainedModel, mask: Tensor, alpha: float, vocabulary: int
    ) -> None:
        self._teacher = teacher
        self._mask = mask
        self._alpha = alpha
        self._vocabulary = vocabulary
        self._cache = DynamicCache(config=teacher.config)
        self._takes_positions = "position_ids" in inspect.signature(teacher.forward).parameters

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids [B, P + n] and the student's scores [B, V] to log-probabilities [B, V]."""
        mixed = torch.full_like(scores, -torch.inf, dtype=torch.float32)
        ours = scores[:, : self._vocabulary].float().softmax(-1)
        if self._alpha:
            theirs = self._teacher_logits(input_ids)[:, : self._vocabulary].float().softmax(-1)
            ours = self._alpha * theirs + (1 - self._alpha) * ours
        mixed[:, : self._vocabulary] = ours.log()
        return mixed

    def _teacher_logits(self, input_ids: Tensor) -> Tensor:
        if self._cache.get_seq_length():
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(input_ids), 1)], 1)
            input_ids = input_ids[:, -1:]
        given: dict[str, Any] = {}
        if self._takes_positions:
            positions = (self._mask.cumsum(1) - 1).clamp(min=0)
            given["position_ids"] = positions[:, -input_ids.shape[1] :]
        logits: Tensor = self._teacher(
            input_ids=input_ids,
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **given,
        ).logits
        return logits[:, -1]
