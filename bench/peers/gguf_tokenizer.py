"""A byte-level BPE tokenizer as GGUF metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..load.errors import LoadError

_DIGITS = {"type": "Digits", "individual_digits": True}


def add_tokenizer(writer: GGUFWriter, folder: Path, vocab_size: int) -> None:
    """Add the tokenizer in `folder`; ids up to `vocab_size` that it does not use are told so.

    Raises:
        LoadError: llama.cpp would split texts in another way.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    described = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splitting(described))
    tokens, types = _vocabulary(tokenizer, vocab_size)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    special = SpecialVocab(folder, load_merges=True, n_vocab=vocab_size)
    special.add_to_gguf(writer, quiet=True)
    if "bos" not in special.add_special_token:
        ids = tokenizer("a").input_ids
        writer.add_add_bos_token(ids[0] == tokenizer.bos_token_id)


def _splitting(described: dict[str, Any]) -> str:
    """llama.cpp's name of how a tokenizer.json splits texts before the merges."""
    split = described["pre_tokenizer"] or {}
    parts = split["pretokenizers"] if split.get("type") == "Sequence" else [split]
    *before, last = parts
    known = (
        last.get("type") == "ByteLevel" and last.get("use_regex") and not described["normalizer"]
    )
    if known and not last["add_prefix_space"]:
        if not before:
            return "gpt-2"
        if before == [_DIGITS]:
            return "smollm"
    raise LoadError(
        "The way this tokenizer splits texts is not written as GGUF; convert the model with "
        "llama.cpp's convert_hf_to_gguf.py and give the file as --gguf."
    )


def _vocabulary(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> tuple[list[str], list[TokenType]]:
    """The tokens by id, and what kind each of them is."""
    tokens = [f"[PAD{index}]" for index in range(vocab_size)]
    types = [TokenType.UNUSED] * vocab_size
    for token, index in tokenizer.get_vocab().items():
        tokens[index], types[index] = token, TokenType.NORMAL
    for index, added in tokenizer.added_tokens_decoder.items():
        types[index] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
    return tokens, types
