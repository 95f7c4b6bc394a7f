"""Small texts, a tokenizer of words, and the settings of tiny runs."""

import json
import random
from pathlib import Path
from typing import Any

from gistserve.training.config import from_mapping
from gistserve.training.continual.config import ContinualConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

ENGLISH = ["red", "green", "blue", "sun", "moon", "sea", "hill", "tree"]
GERMAN = ["eins", "zwei", "drei", "vier", "acht", "zehn", "elf", "neun"]
SENTINELS = [f"<extra_id_{i}>" for i in range(12)]
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "attention_dropout": 0.1,
}


def word_tokenizer() -> PreTrainedTokenizerFast:
    special = ["<unk>", "<pad>", "<end>", "<mask>", *SENTINELS]
    vocabulary = {word: i for i, word in enumerate([*special, *ENGLISH, *GERMAN])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<end>",
        mask_token="<mask>",
        additional_special_tokens=SENTINELS,
    )


def write_texts(path: Path, words: list[str], count: int, seed: int = 0) -> Path:
    """JSON lines of 1 to 40 words in which each word tells much about the next."""
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            first, step = draw.randrange(8), draw.choice([1, 3])
            text = " ".join(words[(first + step * i) % 8] for i in range(draw.randint(1, 40)))
            file.write(json.dumps({"text": text}) + "\n")
    return path


def make_folder(folder: Path) -> Path:
    """old.jsonl, new.jsonl, held-out texts of both, and a tokenizer."""
    write_texts(folder / "old.jsonl", ENGLISH, 60)
    write_texts(folder / "new.jsonl", GERMAN, 60, seed=1)
    write_texts(folder / "old-valid.jsonl", ENGLISH, 12, seed=2)
    write_texts(folder / "new-valid.jsonl", GERMAN, 12, seed=3)
    word_tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def source(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "path": str(folder / f"{name}.jsonl")} | changes


def stage_config(folder: Path, output: Path, **changes: Any) -> ContinualConfig:
    """Ten steps of four rows of 16 tokens on old.jsonl, from scratch unless `start_from` is set."""
    settings: dict[str, Any] = {
        "output_dir": str(output),
        "new": [source(folder, "old")],
        "validation": [
            source(folder, "old-valid", group="old"),
            source(folder, "new-valid", group="new"),
        ],
        "sequence_length": 16,
        "batch_size": 4,
        "micro_batch_size": 2,
        "max_steps": 10,
        "learning_rate": 1e-2,
        "eval_steps": 5,
        "eval_rows": 4,
        "logging_steps": 2,
        "save_steps": 4,
        "save_total_limit": 9,
        "token_cache": str(folder / "tokens"),
        "tensorboard": False,
        "plot": False,
        "progress": False,
        "device": "cpu",
    }
    if "start_from" not in changes:
        settings |= {"new_model": LLAMA, "tokenizer": str(folder / "tokenizer")}
    return from_mapping(ContinualConfig, settings | changes)


def replay_config(folder: Path, output: Path) -> ContinualConfig:
    """Six steps on new.jsonl with a quarter of old.jsonl, without anything random in the model."""
    return stage_config(
        folder,
        output,
        new=[source(folder, "new")],
        replay=[source(folder, "old")],
        replay_ratio=0.25,
        new_model={**LLAMA, "attention_dropout": 0.0},
        max_steps=6,
        save_steps=3,
    )
