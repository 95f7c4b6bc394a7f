"""Student, teacher and their tokenizer: loaded, and checked to fit each other."""

import logging
from dataclasses import dataclass

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..config import ConfigError
from .config import MiniLLMConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """The student in float32, the teacher (None for method sft without one), their tokenizer."""

    student: PreTrainedModel
    teacher: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a response."""
        return frozenset({self.tokenizer.eos_token_id})

    @property
    def pad_id(self) -> int:
        """What fills batches; it is never looked at."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)


def load_models(config: MiniLLMConfig) -> Models:
    """Load what `config` names. ConfigError for what cannot be loaded or does not fit together."""
    tokenizer = _load_tokenizer(config.model, "model")
    student = _load_model(config.model, "model", torch.float32, config)
    _end_with(student, tokenizer)
    if config.teacher is None:
        return Models(student, None, tokenizer)
    check_tokenizers(tokenizer, _load_tokenizer(config.teacher, "teacher"))
    dtype = torch.bfloat16 if config.bf16 and config.device != "cpu" else torch.float32
    teacher = _load_model(config.teacher, "teacher", dtype, config).eval().requires_grad_(False)
    _warn_of_small_teacher(student, teacher)
    return Models(student, teacher, tokenizer)


def check_tokenizers(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """ConfigError unless both give every token the same number.

    The vocabularies of the models may differ by rows that no token has.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    tokens = ours.keys() | theirs.keys()
    differing = [token for token in tokens if ours.get(token) != theirs.get(token)]
    if differing:
        token = min(differing)
        raise ConfigError(
            f"student and teacher need one tokenizer, but theirs differ in {len(differing)} of "
            f"{len(tokens)} tokens: {token!r} is number {ours.get(token)} for "
            f"the student and {theirs.get(token)} for the teacher; choose a student of the "
            "teacher's family, or method seqkd's responses as data of method sft"
        )
    if student.eos_token_id != teacher.eos_token_id:
        raise ConfigError(
            f"student and teacher end their texts differently: {student.eos_token!r} and "
            f"{teacher.eos_token!r}; set the same end token in both tokenizers"
        )


def _warn_of_small_teacher(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    ours, theirs = student.num_parameters(), teacher.num_parameters()
    if theirs < ours:
        logger.warning(
            "the teacher has fewer parameters than the student (%d against %d): are model and "
            "teacher exchanged?",
            theirs,
            ours,
        )


def _end_with(student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Served, the student stops where it learns to stop, and draws as its own config says."""
    student.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _load_tokenizer(name: str, field: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{field}: {name!r} has no tokenizer to load: {error}") from error
    return tokenizer


def _load_model(
    name: str, field: str, dtype: torch.dtype, config: MiniLLMConfig
) -> PreTrainedModel:
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, attn_implementation=config.attn_implementation
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"{field}: {name!r} cannot be loaded: {error}") from error
    return model
