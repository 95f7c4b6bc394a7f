"""A tiny model folder with a word tokenizer, and data for it."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
WORDS = ["<pad>", "<end>", "<system>", "<user>", "<assistant>", "<unk>", "say", "ask", "?"]
COLOURS = ["red", "blue", "green", "black", "white", "grey"]


def make_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*WORDS, *COLOURS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    )
    tokenizer.chat_template = template
    return tokenizer


def make_model_folder(folder: Path) -> Path:
    """A random Qwen3 model of two layers with the tokenizer above."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(WORDS) + len(COLOURS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        initializer_range=0.2,
        eos_token_id=1,
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def write_data(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def colour_records(count: int = 12) -> list[dict]:
    """Prompts of varying length that name a colour; the answer is that colour."""
    return [
        {
            "prompt": "say " + " ".join([COLOURS[i % 6]] * (1 + i % 3)),
            "turns": [{"input": text, "output": COLOURS[i % 6]} for text in ("ask ?", "? ask ?")],
        }
        for i in range(count)
    ]
