"""Tiny models with one tokenizer, data by rule, and settings of a short run."""

import json
from pathlib import Path
from typing import Any

import torch
from gistserve.training.minillm.config import MiniLLMConfig
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_SPECIAL = ["<pad>", "<end>", "<unk>"]
_COLOURS = ["red", "blue", "green", "black"]
_THINGS = ["cat", "hat", "bat"]
_WORD = Regex(r" ?[A-Za-z]+| ?[^A-Za-z ]")


def make_tokenizer(vocabulary: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Words with the space before them, so that text comes back as it went in."""
    words = ["my", "is", "a", ".", *_COLOURS, *_THINGS]
    tokens = vocabulary or [*_SPECIAL, *words, *(f" {word}" for word in words)]
    backend = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(_WORD, "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    )


def make_model(width: int, seed: int = 0, extra_rows: int = 0) -> LlamaForCausalLM:
    """A random llama; `extra_rows` of its vocabulary are padding."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(make_tokenizer()) + extra_rows,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def save_model(folder: Path, width: int, seed: int = 0, extra_rows: int = 0) -> Path:
    make_model(width, seed, extra_rows).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def records() -> list[dict[str, str]]:
    """`my cat` is followed by its colour."""
    return [
        {"prompt": f"my {thing} is {colour} .", "response": f" a {colour} {thing} ."}
        for thing in _THINGS
        for colour in _COLOURS
    ]


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_folder(folder: Path) -> Path:
    """Student, teacher (with padded vocabulary) and data, as `settings` names them."""
    save_model(folder / "student", 16)
    save_model(folder / "teacher", 24, seed=1, extra_rows=3)
    write_jsonl(folder / "train.jsonl", records())
    return folder


def settings(folder: Path, output: Path, **changes: Any) -> MiniLLMConfig:
    """A short run on what `make_folder` made."""
    values: dict[str, Any] = {
        "model": str(folder / "student"),
        "teacher": str(folder / "teacher"),
        "train_data": str(folder / "train.jsonl"),
        "validation_data": str(folder / "train.jsonl"),
        "output_dir": str(output),
        "max_prompt_tokens": 8,
        "max_new_tokens": 8,
        "sft_epochs": 4,
        "sft_learning_rate": 3e-2,
        "sft_batch_size": 4,
        "sft_eval_steps": 4,
        "rollouts": 8,
        "minibatch": 4,
        "inner_epochs": 1,
        "learning_rate": 1e-3,
        "max_steps": 8,
        "eval_steps": 2,
        "save_steps": 2,
        "logging_steps": 2,
        "test_samples": 2,
        "printed_samples": 1,
        "tensorboard": False,
        "device": "cpu",
        "trainer": {"disable_tqdm": True},
    }
    return MiniLLMConfig(**(values | changes))
