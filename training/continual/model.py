"""The model of a run: loaded with its weights, or made anew from an architecture and sizes."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..config import ConfigError
from .objective import AUTO_MODELS, ObjectiveName


def load_architecture(name: str | Path) -> Any:
    """Configuration of a model's folder or hub name. ConfigError where there is none."""
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no model can be loaded from {str(name)!r}: {error}") from error


def load_weights(folder: str | Path, objective: ObjectiveName, attention: str) -> PreTrainedModel:
    """A model in float32 from a folder or hub name. ConfigError where it cannot be loaded."""
    try:
        model: PreTrainedModel = AUTO_MODELS[objective].from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(f"start_from: {str(folder)!r} cannot be loaded: {error}") from error
    return model


def new_model(
    sizes: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    objective: ObjectiveName,
) -> PreTrainedModel:
    """An untrained model: `sizes` are fields of its transformers configuration and `model_type`.

    Vocabulary and special tokens are the tokenizer's, unless `sizes` gives them. ConfigError for
    sizes that no model can have.
    """
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    if objective == "span_corruption":
        special["decoder_start_token_id"] = tokenizer.pad_token_id
    fields = {"vocab_size": len(tokenizer), **special} | sizes
    kind = fields.pop("model_type", None)
    if kind is None:
        raise ConfigError("new_model: model_type is missing, such as llama, bert or t5")
    try:
        known = AutoConfig.for_model(kind)
        if unknown := sorted(name for name in sizes if not hasattr(known, name)):
            raise ConfigError(f"new_model: {kind} has no {', '.join(unknown)}")
        config = AutoConfig.for_model(kind, **fields)
        model: PreTrainedModel = AUTO_MODELS[objective].from_config(config)
    except ConfigError:
        raise
    except (ValueError, TypeError, KeyError, ImportError, StrictDataclassError) as error:
        raise ConfigError(f"new_model: {error}") from error
    return model


def check_fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
    """Raise ConfigError where the tokenizer's ids or rows of `length` are beyond the model."""
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise ConfigError(
            f"the tokenizer's ids go up to {largest}, but the model embeds only {rows}: the "
            "vocabulary does not match; use the model's own tokenizer"
        )
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and length > longest:
        raise ConfigError(
            f"sequence_length {length} is more than the model's {longest} positions: lower it"
        )


def count_parameters(architecture: Any, objective: ObjectiveName) -> int:
    """Parameters of a model that is never made, from its configuration."""
    with torch.device("meta"):
        return num_parameters(AUTO_MODELS[objective].from_config(architecture))


def num_parameters(model: PreTrainedModel) -> int:
    """All parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
