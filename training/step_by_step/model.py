"""Loading the model to be trained, of whichever kind it is."""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..config import ConfigError
from .config import StepByStepConfig


def load_student(config: StepByStepConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model in float32, and tokenizer. Raises ConfigError for what cannot be loaded whole."""
    try:
        encoder_decoder = AutoConfig.from_pretrained(config.model).is_encoder_decoder
        kind: Any = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
        tokenizer = AutoTokenizer.from_pretrained(config.model)
        model, report = kind.from_pretrained(
            config.model,
            dtype=torch.float32,  # bfloat16 would lose small updates
            attn_implementation=config.attn_implementation,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"model: {config.model!r} cannot be loaded: {error}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ConfigError(
            f"model: {config.model!r} lacks {len(missing)} weights, {missing[0]} among them: it is "
            "no checkpoint of a model that writes text"
        )
    return model, tokenizer
