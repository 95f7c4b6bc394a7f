"""What trainers ask of a generator of texts, and one made of a transformers model."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .padding import pad_left

_PLAIN: dict[str, Any] = {"do_sample": True, "top_k": 0, "top_p": 1.0}


@dataclass(frozen=True)
class SamplingSettings:
    """How continuations are drawn. `temperature` 0 takes the most likely token.

    `seed`: one call with the same prompts and settings draws the same tokens.
    """

    max_new_tokens: int
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")


GenerateTexts = Callable[[list[list[int]], SamplingSettings], list[list[int]]]
"""Token ids of prompts to token ids of continuations, in the same order. A continuation that came
to an end has the end token as its last; one that was cut off at max_new_tokens has none."""

MakeGenerate = Callable[[PreTrainedModel], AbstractContextManager[GenerateTexts | None]]
"""Takes a model over until the context ends; gives None for one that it cannot run."""


class TransformersGenerate:
    """A GenerateTexts: batches of prompts of like length through the model's `generate`.

    model: any causal language model. end_ids: tokens that end a text. pad_id: fills batches.
    The random state outside is not touched.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        end_ids: Collection[int],
        pad_id: int = 0,
        batch_size: int = 64,
    ) -> None:
        self._model = model
        self._end_ids = frozenset(end_ids)
        self._pad_id = pad_id
        self._batch_size = batch_size

    def __call__(self, prompts: list[list[int]], settings: SamplingSettings) -> list[list[int]]:
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        outputs: list[list[int]] = [[] for _ in prompts]
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        was_training = self._model.training
        self._model.eval()
        with torch.random.fork_rng(devices):
            torch.manual_seed(settings.seed)
            starts = range(0, len(order), self._batch_size)
            for start in tqdm(starts, desc="generating", delay=5, mininterval=1, leave=False):
                rows = order[start : start + self._batch_size]
                written = self._generate([prompts[row] for row in rows], settings)
                for row, ids in zip(rows, written, strict=True):
                    outputs[row] = ids
        self._model.train(was_training)
        return outputs

    def _generate(self, prompts: list[list[int]], settings: SamplingSettings) -> list[list[int]]:
        ids, mask = pad_left(prompts, self._pad_id)
        drawing: dict[str, Any] = {"do_sample": False}
        if settings.temperature:
            drawing = {"do_sample": True, "temperature": settings.temperature}
        out = generate(
            self._model,
            ids.to(self._model.device),
            mask.to(self._model.device),
            end_ids=self._end_ids,
            pad_id=self._pad_id,
            max_new_tokens=settings.max_new_tokens,
            **drawing,
        )
        return [until_end(row, self._end_ids) for row in out.tolist()]


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    *,
    end_ids: Collection[int],
    pad_id: int,
    **settings: Any,
) -> Tensor:
    """New tokens [B, <= max_new_tokens] int64 behind prompts `ids` [B, P] padded on the left.

    mask [B, P]: 1 at real tokens. What the model's own generation config would add to `settings`
    (top-k, penalties, ...) is not heard: tokens are drawn from the whole distribution.
    """
    own = model.generation_config
    model.generation_config = type(own)(**_PLAIN)
    try:
        out: Tensor = model.generate(
            input_ids=ids,
            attention_mask=mask,
            eos_token_id=sorted(end_ids) or None,
            pad_token_id=pad_id,
            num_beams=1,
            use_cache=True,
            **settings,
        )
    finally:
        model.generation_config = own
    return out[:, ids.shape[1] :]


def until_end(ids: list[int], end_ids: Collection[int]) -> list[int]:
    """Tokens up to the first end token, which is kept."""
    for index, token in enumerate(ids):
        if token in end_ids:
            return ids[: index + 1]
    return ids
