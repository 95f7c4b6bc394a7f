"""What a run learns: its examples, and how they are batched and measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..config import ConfigError
from ..records import hold_out
from .batch import Example, classification_examples, collate, text_examples
from .config import PSTConfig
from .data import (
    DataText,
    LabelledText,
    check_labels,
    label_names,
    read_data_texts,
    read_labelled,
)
from .evaluation import evaluate_loss, generate_texts, score_texts


@dataclass(frozen=True)
class Texts:
    """The data of a run as read, before tokens; `labels` is empty for a generating task."""

    train: list[Any]
    validation: list[Any]
    test: list[Any] | None
    labels: list[str]


def read_texts(config: PSTConfig) -> Texts:
    """Read all that the configuration names. Raises DataError."""

    def read(place: str) -> list[Any]:
        if config.task != "classification":
            return read_data_texts(place)
        fields = (config.text_field, config.text_pair_field, config.label_field)
        return read_labelled(place, *fields)

    train = read(config.train_data)
    if config.validation_data is not None:
        validation = read(config.validation_data)
    else:
        train, validation = hold_out(train, config.validation_share, config.seed)
    test = None if config.test_data is None else read(config.test_data)
    labels = label_names(train) if config.task == "classification" else []
    if labels:
        check_labels(validation, labels, config.validation_data or "the validation share")
        check_labels(test or [], labels, config.test_data or "")
    return Texts(train, validation, test, labels)


class TaskData:
    """Tokenised examples of one task, and their measures."""

    def __init__(
        self, config: PSTConfig, texts: Texts, model: PreTrainedModel, tokenizer: Any
    ) -> None:
        self._config = config
        self._tokenizer: PreTrainedTokenizerBase = tokenizer
        self._texts = texts
        self._longest = _longest(config, model)
        pad = tokenizer.pad_token_id
        start = getattr(model.config, "decoder_start_token_id", None)
        self.collate = partial(
            collate,
            task=config.task,
            pad_id=0 if pad is None else pad,
            start_id=start if start is not None else pad or 0,
        )
        self.train = self.examples(texts.train)
        self.validation = self.examples(texts.validation)

    def examples(self, texts: Sequence[LabelledText] | Sequence[DataText]) -> list[Example]:
        """Token ids of texts as read."""
        labelled = [text for text in texts if isinstance(text, LabelledText)]
        if labelled:
            return classification_examples(
                labelled, self._texts.labels, self._tokenizer, self._longest
            )
        data = [text for text in texts if isinstance(text, DataText)]
        causal = self._config.task == "causal"
        return text_examples(data, self._tokenizer, self._longest, causal=causal)

    def measure_validation(self, model: PreTrainedModel, *, generate: bool) -> dict[str, float]:
        """Loss and accuracy, and BLEU and ROUGE-L of greedy answers where asked for."""
        config = self._config
        measures = evaluate_loss(
            model, self.validation, config.task, config.eval_batch_size, self.collate
        )
        if config.task == "classification":
            return measures
        measures = {"loss": measures["loss"], "token_accuracy": measures["accuracy"]}
        if generate:
            measures |= self._measure_answers(model, self._texts.validation)
        return measures

    def measure_test(self, model: PreTrainedModel) -> dict[str, float]:
        """Loss and accuracy of classes, or BLEU and ROUGE-L of greedy answers."""
        texts, config = self._texts.test or [], self._config
        if config.task != "classification":
            return self._measure_answers(model, texts)
        examples = self.examples(texts)
        return evaluate_loss(model, examples, config.task, config.eval_batch_size, self.collate)

    def _measure_answers(
        self, model: PreTrainedModel, texts: Sequence[DataText]
    ) -> dict[str, float]:
        answers = generate_texts(
            model,
            self._tokenizer,
            [text.source for text in texts],
            causal=self._config.task == "causal",
            max_new_tokens=self._config.max_new_tokens,
            batch_size=self._config.eval_batch_size,
        )
        return score_texts(answers, texts)


def _longest(config: PSTConfig, model: PreTrainedModel) -> int:
    """Tokens of a row: `max_tokens`, or fewer where the model has fewer positions."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = min(config.max_tokens, positions or config.max_tokens)
    if config.task == "causal" and positions and config.max_new_tokens >= positions:
        raise ConfigError(
            f"max_new_tokens is {config.max_new_tokens}, but the model has {positions} positions "
            "for the input as well; lower it"
        )
    return longest
