"""Is a gist faithful? Measured against the same weights reading the full prompt.

Arms: `full` prompt, `gist`, `untrained` gist (a fresh adapter of the same shape), `truncated`
prompt of equal bytes (its first `slots` tokens), `none` (no prompt). Teacher-forced on the
reference answers: KL from `full` in nats a token, agreement of the likeliest token, and the
recovered fraction 1 - KL(arm) / KL(none). Free-running, if asked: exact match and ROUGE-L of
greedy answers.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...compress.adapter import GistAdapter
from ...compress.compressor import GistCompressor
from ..end_tokens import end_tokens
from ..metrics import exact_match, rouge_l
from .batch import IGNORED, GistBatch, GistExample, collate, to_device
from .forward import PromptCaches, answer_logits, full_prompt
from .generation import greedy_decode
from .loss import token_kl

Arm = Literal["full", "gist", "untrained", "truncated", "none"]
ARMS: tuple[Arm, ...] = ("full", "gist", "untrained", "truncated", "none")


class ArmCaches:
    """Builds the prompts' caches of every arm for one model and adapter."""

    def __init__(self, model: PreTrainedModel, adapter: GistAdapter) -> None:
        self._model = model
        self._slots = adapter.config.slots
        self._trained = GistCompressor(model, adapter)
        self._untrained: GistCompressor | None = None

    def build(self, arm: Arm, prompt_ids: Tensor, lengths: Tensor) -> PromptCaches:
        """Caches for prompts [B, M], padded on the right, of `lengths` [B]."""
        if arm == "full":
            return full_prompt(self._model, prompt_ids, lengths)
        if arm == "truncated":
            kept = prompt_ids[:, : self._slots]
            return full_prompt(self._model, kept, lengths.clamp(max=self._slots))
        if arm == "gist":
            return PromptCaches(self._trained.compress_batch(prompt_ids, lengths))
        if arm == "untrained":
            return PromptCaches(self._fresh().compress_batch(prompt_ids, lengths))
        return PromptCaches(None)

    def _fresh(self) -> GistCompressor:
        if self._untrained is None:
            assert self._trained.adapter is not None
            fresh = GistAdapter.create(self._model, self._trained.adapter.config)
            self._untrained = GistCompressor(self._model, fresh)
        return self._untrained


@torch.no_grad()
def evaluate_gist(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adapter: GistAdapter,
    examples: Sequence[GistExample],
    *,
    arms: Sequence[Arm] = ARMS,
    batch_size: int = 16,
    generate: bool = True,
    max_new_tokens: int | None = None,
    stop_ids: Sequence[int] | None = None,
    progress: bool = False,
) -> dict[Arm, dict[str, float]]:
    """Measures of each arm over all turns of `examples`, each turn on its own.

    `batch_size` counts prompts. Keys of an arm: `nll` (nats a token), `kl_mean`, `kl_p95`,
    `kl_max`, `top1_agreement`, `top1_agreement_where_prompt_matters` (where `full` and `none`
    disagree), `recovered_fraction`, `tokens`; with `generate` also `exact_match`, `rouge_l` and
    `answers`. Answers are cut at `stop_ids` (default: the tokenizer's and the model's end
    tokens) or `max_new_tokens` (default: the longest reference of the batch). ValueError for no
    examples.
    """
    if not examples:
        raise ValueError("evaluate_gist: there are no examples")
    was_training = model.training
    model.eval()
    caches = ArmCaches(model, adapter)
    stops = set(stop_ids) if stop_ids is not None else end_tokens(model, tokenizer)
    forced = {arm: _Forced() for arm in arms}
    free = {arm: _Free(tokenizer) for arm in arms}
    ordered = sorted(examples, key=lambda example: len(example.prompt_ids))
    starts = range(0, len(ordered), batch_size)
    for start in tqdm(starts, desc="evaluating", disable=not progress, leave=False):
        chunk = ordered[start : start + batch_size]
        batch = to_device(collate(chunk), model.device)
        _teacher_forced(model, caches, batch, forced)
        if generate:
            _free_running(model, caches, chunk, batch, free, max_new_tokens, stops)
    model.train(was_training)
    return {arm: forced[arm].summary() | (free[arm].summary() if generate else {}) for arm in arms}


class _Forced:
    """Teacher-forced measures of one arm, gathered token by token."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Tensor]] = {}

    def add(self, **columns: Tensor) -> None:
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values.float().cpu())

    def summary(self) -> dict[str, float]:
        joined = {name: torch.cat(parts) for name, parts in self._columns.items()}
        kl, agree, matters = joined["kl"], joined["agree"], joined["matters"] > 0
        none = float(joined["kl_none"].mean())
        fraction = 1 - float(kl.mean()) / none if none > 0 else float("nan")
        return {
            "nll": float(joined["nll"].mean()),
            "kl_mean": float(kl.mean()),
            "kl_p95": float(kl.quantile(0.95)) if len(kl) < 2**24 else float("nan"),
            "kl_max": float(kl.max()),
            "top1_agreement": float(agree.mean()),
            "top1_agreement_where_prompt_matters": (
                float(agree[matters].mean()) if matters.any() else float("nan")
            ),
            "recovered_fraction": fraction,
            "tokens": float(len(kl)),
        }


class _Free:
    """Free-running measures of one arm."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._exact: list[bool] = []
        self._rouge: list[float] = []

    def add(self, answers: list[list[int]], references: list[list[int]]) -> None:
        ours = self._tokenizer.batch_decode(answers, skip_special_tokens=True)
        theirs = self._tokenizer.batch_decode(references, skip_special_tokens=True)
        for answer, reference in zip(ours, theirs, strict=True):
            self._exact.append(exact_match(answer, reference))
            self._rouge.append(rouge_l(answer, reference))

    def summary(self) -> dict[str, float]:
        count = len(self._exact)
        return {
            "exact_match": sum(self._exact) / count,
            "rouge_l": sum(self._rouge) / count,
            "answers": float(count),
        }


def _teacher_forced(
    model: PreTrainedModel, caches: ArmCaches, batch: GistBatch, measures: dict[Arm, _Forced]
) -> None:
    full, none = _logits(model, caches, batch, "full"), _logits(model, caches, batch, "none")
    targets = batch["labels"][batch["labels"] != IGNORED]
    likeliest = full.argmax(-1)
    common = {"kl_none": token_kl(full, none), "matters": likeliest != none.argmax(-1)}
    for arm, measure in measures.items():
        known: dict[str, Tensor] = {"full": full, "none": none}
        logits = known[arm] if arm in known else _logits(model, caches, batch, arm)
        nll = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
        agree = logits.argmax(-1) == likeliest
        measure.add(kl=token_kl(full, logits), nll=nll, agree=agree, **common)


def _logits(model: PreTrainedModel, caches: ArmCaches, batch: GistBatch, arm: Arm) -> Tensor:
    prompts = caches.build(arm, batch["prompt_ids"], batch["prompt_lengths"])
    owners, labels = batch["turn_prompts"], batch["labels"]
    return answer_logits(model, prompts, batch["turn_ids"], owners, labels)


def _free_running(
    model: PreTrainedModel,
    caches: ArmCaches,
    examples: Sequence[GistExample],
    batch: GistBatch,
    measures: dict[Arm, _Free],
    max_new_tokens: int | None,
    stops: set[int],
) -> None:
    turns = [turn for example in examples for turn in example.turns]
    inputs = [turn.input_ids for turn in turns]
    references = [turn.output_ids for turn in turns]
    limit = max_new_tokens or max(len(reference) for reference in references)
    for arm, measure in measures.items():
        prompts = caches.build(arm, batch["prompt_ids"], batch["prompt_lengths"])
        answers = greedy_decode(model, prompts, batch["turn_prompts"], inputs, limit, stops)
        measure.add(answers, references)
