"""Tiny random models that know the words of the example set, and settings to train them."""

from pathlib import Path
from typing import Any

import torch
from gistserve.training.example_data import example_records
from gistserve.training.step_by_step.config import StepByStepConfig
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

SPECIAL = ["<pad>", "<end>", "<unk>"]
_WORD = Regex(r" ?[A-Za-z]+| ?[0-9]| ?[^A-Za-z0-9 ]")
_EXTRA = "[label] [rationale] => So the answer is"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Words with the space before them, so that text comes back as it went in."""
    texts = [_EXTRA, *(str(v) for r in example_records("sums", "train") for v in r.values())]
    split = pre_tokenizers.Split(_WORD, "isolated")
    words = {word for text in texts for word, _ in split.pre_tokenize_str(text)}
    words |= {word.strip() for word in words} | {f" {word.strip()}" for word in words}
    words.discard("")
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *sorted(words)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = split
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    )


def make_model(kind: str, *, seed: int = 0, size: int = 32) -> PreTrainedModel:
    """gpt2, llama or t5, of two layers."""
    common: dict[str, Any] = {"vocab_size": len(make_tokenizer()), "pad_token_id": 0}
    ends = {"bos_token_id": 1, "eos_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(
                    n_embd=size, n_layer=2, n_head=2, n_positions=128, initializer_range=0.1,
                    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **common, **ends,
                )
            )  # fmt: skip
        if kind == "t5":
            return T5ForConditionalGeneration(
                T5Config(
                    d_model=size, d_ff=2 * size, d_kv=16, num_layers=2, num_heads=2,
                    decoder_start_token_id=0, dropout_rate=0.0, **common, **ends,
                )
            )  # fmt: skip
        return LlamaForCausalLM(
            LlamaConfig(
                hidden_size=size, intermediate_size=2 * size, num_hidden_layers=2,
                num_attention_heads=2, max_position_embeddings=128, initializer_range=0.1,
                **common, **ends,
            )
        )  # fmt: skip


def save_model(kind: str, folder: Path) -> Path:
    """Write model and tokenizer, as a base model to train."""
    make_model(kind).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def settings(model: Path, output: Path, **changes: Any) -> StepByStepConfig:
    """A short run on the example set."""
    values: dict[str, Any] = {
        "model": str(model),
        "train_data": "example:sums:train",
        "validation_data": "example:sums:validation",
        "output_dir": str(output),
        "answers": "equation",
        "learning_rate": 5e-3,
        "max_steps": 8,
        "batch_size": 16,
        "max_target_tokens": 32,
        "eval_steps": 4,
        "save_steps": 4,
        "logging_steps": 2,
        "printed_samples": 1,
        "attn_implementation": "eager",
        "tensorboard": False,
        "device": "cpu",
        "trainer": {"disable_tqdm": True},
    }
    return StepByStepConfig(**(values | changes))
