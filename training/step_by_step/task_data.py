"""What a run learns and is measured on: its records, its examples, and their scores."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..config import ConfigError
from ..greedy import greedy_answers
from ..metrics import accuracy
from ..records import DataError, hold_out
from .batch import Encoder, Example, collate_causal, collate_encoder_decoder
from .config import StepByStepConfig
from .data import Annotated, Fields, check_references, nested_subset, read_annotated
from .forward import task_logits
from .loss import task_losses, task_tokens
from .ranking import likeliest
from .scores import choices, score_answers
from .tasks import (
    LABEL,
    Labels,
    known_label,
    label_text,
    question,
    read_answer,
    read_rationale,
    task_texts,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Records:
    """The data of a run as read, before tokens; `train` is the chosen fraction."""

    train: list[Annotated]
    validation: list[Annotated]
    test: list[Annotated] | None

    def counts(self, config: StepByStepConfig) -> dict[str, int]:
        """How much there is to learn from."""
        return {
            "examples": len(self.train),
            "without_label": sum(known_label(i, config.labels) is None for i in self.train),
            "without_rationale": sum(item.rationale is None for item in self.train),
            "validation": len(self.validation),
            "test": len(self.test or []),
        }


def read_task(config: StepByStepConfig) -> Records:
    """Read all that the configuration names. Raises DataError."""
    fields = Fields(
        config.input_template,
        config.label_field,
        config.teacher_label_field,
        config.rationale_field,
    )
    train = read_annotated(config.train_data, fields)
    if config.validation_data is not None:
        validation = read_annotated(config.validation_data, fields)
    else:
        train, validation = hold_out(train, config.validation_share, config.seed)
    test = None if config.test_data is None else read_annotated(config.test_data, fields)
    check_references(validation, config.validation_data or "the validation share")
    check_references(test or [], config.test_data or "")
    if config.answers == "choices":
        _check_choices([*validation, *(test or [])], config)
    train = nested_subset(train, config.fraction, config.seed)
    _check_known(train, config)
    return Records(train, validation, test)


def _check_choices(items: Sequence[Annotated], config: StepByStepConfig) -> None:
    for item in items:
        if not choices(item.source):
            raise DataError(
                f"answers: choices, but the input {item.source!r} of {config.train_data} or its "
                'validation and test data lists none in lines like "(a) park"; set answers: text'
            )


def _check_known(items: Sequence[Annotated], config: StepByStepConfig) -> None:
    """Say what is missing; refuse where the method has nothing to learn."""
    field = config.label_field if config.labels == "gold" else config.teacher_label_field
    _check_some("label", [known_label(item, config.labels) for item in items], field, config)
    if config.method != "standard":
        rationales = [item.rationale for item in items]
        _check_some("rationale", rationales, config.rationale_field, config)


def _check_some(
    what: str, found: Sequence[str | None], field: str, config: StepByStepConfig
) -> None:
    missing = sum(text is None for text in found)
    if missing == len(found):
        raise DataError(
            f"{config.train_data}: none of {len(found)} records has a {what} in the field {field}, "
            f"which method {config.method} with {config.labels} labels learns from; name the right "
            "field, or let a teacher annotate the data: gistserve train annotate"
        )
    if missing:
        logger.warning("%d of %d training records have no %s", missing, len(found), what)


class TaskData:
    """Tokenised examples, and measures of a model's answers."""

    def __init__(
        self,
        config: StepByStepConfig,
        records: Records,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self.records = records
        self.encoder = _encoder(config, model, tokenizer)
        pad = tokenizer.pad_token_id
        self._pad_id = 0 if pad is None else pad
        self.collate = _collator(model, self._pad_id)
        self.train = self._examples(records.train, config.labels)
        references = [replace(item, label=item.reference) for item in records.validation]
        self.validation = self._examples(references, "gold", only=LABEL)
        for part, count in self.encoder.cut.items():
            if count:
                logger.warning("%d %s are longer than allowed and cut", count, part)

    def _examples(
        self, items: Sequence[Annotated], labels: Labels, only: int | None = None
    ) -> list[Example]:
        learned = (task_texts(item, self._config.method, labels) for item in items)
        chosen = ([text for text in texts if only in (None, text.task)] for texts in learned)
        return [self.encoder.example(texts) for texts in chosen if texts]

    def measure(
        self, model: PreTrainedModel, items: Sequence[Annotated]
    ) -> tuple[dict[str, float], list[str]]:
        """Scores of greedy answers to the label task, and what the model wrote."""
        config = self._config
        written = self.write(model, items, LABEL)
        scores = score_answers(
            [read_answer(text, config.method) for text in written],
            [item.reference or "" for item in items],
            [item.source for item in items],
            config.answers,
        )
        if config.answers == "choices":
            scores["ranked_accuracy"] = self._ranked_accuracy(model, items, written)
        return scores, written

    def _ranked_accuracy(
        self, model: PreTrainedModel, items: Sequence[Annotated], written: Sequence[str]
    ) -> float:
        """Accuracy of the listed choice of highest probability, behind what else was written."""
        method = self._config.method
        target = self.encoder.target
        listed = [choices(item.source) for item in items]
        before = [read_rationale(text, method) for text in written]
        chosen = likeliest(
            model,
            [self.encoder.prompt(question(item.source, method)) for item in items],
            [
                [target(label_text(label, method, rationale)) for label in labels]
                for labels, rationale in zip(listed, before, strict=True)
            ],
            pad_id=self._pad_id,
            batch_size=max(1, self._config.eval_batch_size // 4),
        )
        answers = [labels[index] for labels, index in zip(listed, chosen, strict=True)]
        return accuracy(answers, [item.reference or "" for item in items])

    def write(self, model: PreTrainedModel, items: Sequence[Annotated], task: int) -> list[str]:
        """What the model writes to do `task`."""
        sources = [question(item.source, self._config.method, task) for item in items]
        return greedy_answers(
            model,
            self._tokenizer,
            [self.encoder.prompt(source) for source in sources],
            max_new_tokens=self._longest_answer(task),
            batch_size=self._config.eval_batch_size,
        )

    def _longest_answer(self, task: int) -> int:
        """No longer than `max_target_tokens`, nor than twice the longest that was learned."""
        learned = (len(r.target) for e in self.train for r in e["rows"] if r.task == task)
        return min(self._config.max_target_tokens, 2 * max(learned, default=1))

    @torch.no_grad()
    def validation_loss(self, model: PreTrainedModel) -> float:
        """Mean cross-entropy of the labels' tokens (in `single_task`, of its text's)."""
        was_training = model.training
        model.eval()
        total, tokens = 0.0, 0
        ordered = sorted(self.validation, key=lambda example: len(example["input_ids"]))
        size = self._config.eval_batch_size
        for start in range(0, len(ordered), size):
            batch = self.collate(ordered[start : start + size])
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            labels, tasks = batch.pop("labels"), batch.pop("tasks")
            count = task_tokens(labels, tasks)
            losses = task_losses(task_logits(model, batch), labels, tasks, count)
            total += float(losses[LABEL]) * int(count[LABEL])
            tokens += int(count[LABEL])
        model.train(was_training)
        return total / tokens


def _encoder(
    config: StepByStepConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Encoder:
    """Within the model's positions: a causal model's input and target share them."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest, causal = config.max_input_tokens, not model.config.is_encoder_decoder
    if positions is not None:
        room = positions - (config.max_target_tokens if causal else 0)
        if room < 8:
            raise ConfigError(
                f"max_target_tokens is {config.max_target_tokens}, but the model has {positions} "
                "positions for the input as well; lower it"
            )
        longest = min(longest, room)
    return Encoder(tokenizer, causal, longest, config.max_target_tokens)


def _collator(model: PreTrainedModel, pad: int) -> Callable[[Sequence[Example]], dict[str, Tensor]]:
    if not model.config.is_encoder_decoder:
        return partial(collate_causal, pad_id=pad)
    start = model.config.decoder_start_token_id
    return partial(collate_encoder_decoder, pad_id=pad, start_id=pad if start is None else start)
