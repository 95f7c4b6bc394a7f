"""Loading the model to be pruned, with the head that its task needs."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..config import ConfigError
from ..records import DataError
from .config import PSTConfig

_KINDS: dict[str, Any] = {
    "classification": AutoModelForSequenceClassification,
    "causal": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}


def load_model(
    config: PSTConfig, labels: list[str]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[str]]:
    """Model, tokenizer, and the names of the parameters that start random (a task head).

    `labels` are the classes, in the order of their ids. Raises ConfigError for what cannot be
    loaded, or lacks weights of its body; DataError where the model classifies by other labels.
    """
    options: dict[str, Any] = {}
    if labels:
        options["num_labels"] = len(labels)
        options["id2label"] = dict(enumerate(labels))
        options["label2id"] = {label: index for index, label in enumerate(labels)}
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model)
        if labels:
            _check_head(config.model, labels)
        torch.manual_seed(config.seed)  # of the head that starts random
        model, report = _KINDS[config.task].from_pretrained(
            config.model,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attn_implementation,
            output_loading_info=True,
            **options,
        )
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"model: {config.model!r} cannot be loaded: {error}") from error
    fresh = sorted(report["missing_keys"])
    inside = [name for name in fresh if any(part.isdigit() for part in name.split("."))]
    if inside:
        raise ConfigError(
            f"model: {config.model!r} lacks {len(inside)} weights of its blocks, {inside[0]} among "
            "them: it is no checkpoint of such a model"
        )
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = False
    return model, tokenizer, fresh


def _check_head(name: str, labels: list[str]) -> None:
    """A model that already classifies must know these labels; numbered ones are only counted."""
    from transformers import AutoConfig

    known = AutoConfig.from_pretrained(name)
    if not any("SequenceClassification" in kind for kind in known.architectures or ()):
        return
    names = [known.id2label[index] for index in sorted(known.id2label)]
    numbered = all(label == f"LABEL_{index}" for index, label in enumerate(names))
    if len(names) != len(labels) or not (numbered or names == labels):
        raise DataError(
            f"the model {name} classifies by {', '.join(map(repr, names))}, the training data by "
            f"{', '.join(map(repr, labels))}; use data with its labels, or a model without a head"
        )
